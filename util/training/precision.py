"""One precision path: full, bf16 or fp16 differ in a dtype and in a scaler that is a no-op unless fp16."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast for the forward pass, loss scaling for the backward pass.

    Args:
        amp: "off", "bf16" or "fp16".
        device_type: "cpu" or "cuda".
    """

    def __init__(self, amp: str, device_type: str) -> None:
        self.amp = amp
        self.device_type = device_type
        self.skips_overflow = amp == "fp16"
        self._scaler = torch.amp.GradScaler(device_type, enabled=self.skips_overflow)

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=DTYPES[self.amp], enabled=self.amp != "off")

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        return self._scaler.scale(loss)

    def unscale_and_clip(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> Tensor:
        """Bring gradients back to their true size, clip them, and return their norm before clipping."""
        self._scaler.unscale_(optimizer)
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless fp16 gradients overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def skip(self) -> None:
        """Skip a step whose gradient is not finite; in fp16 the loss scale is lowered.

        The scaler's own step checks the entries only, and would take one of which just the norm is infinite.
        """
        if self.skips_overflow:
            self._scaler.update(self.loss_scale * self._scaler.get_backoff_factor())

    @property
    def loss_scale(self) -> float:
        """The factor on the loss, 1 unless fp16."""
        return self._scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        """Plain values; empty unless fp16."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the state of a run without fp16 is empty and leaves the scaler at its start."""
        if state:
            self._scaler.load_state_dict(state)
