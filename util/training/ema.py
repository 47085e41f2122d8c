"""An exponential moving average of the weights."""

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """Average a model's weights over the steps; `module` is what to evaluate.

    Each tensor is averaged once per step, however many names it has, and integer buffers are copied. (The official
    code averages a tied tensor once per name, which makes its decay the twelfth power, and averages integers too.)

    Args:
        model: the model in training, not wrapped.
        decay: share of the old average that stays at each step; 0 makes `module` the model itself.
        warmup_steps: the decay of step t is decay * (1 - exp(-t / warmup_steps)), so that an early average is not
            that of the initial weights; 0 keeps it constant.
    """

    def __init__(self, model: Network, decay: float, warmup_steps: int) -> None:
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.is_copy = decay > 0
        self.module: Network = copy.deepcopy(model).requires_grad_(False).eval() if self.is_copy else model

    def decay_at(self, step: int) -> float:
        """The decay of the update after `step` optimizer steps (1-based)."""
        return self.decay * (1 - math.exp(-step / self.warmup_steps)) if self.warmup_steps else self.decay

    def copy_from(self, model: nn.Module) -> None:
        """Restart the average at the model as it is."""
        if self.is_copy:
            self.module.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after optimizer step `step` (1-based)."""
        if not self.is_copy:
            return
        share = 1 - self.decay_at(step)
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], share)
        for averaged, current in zip(self.module.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)
