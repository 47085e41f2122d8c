"""Running sums of training figures. A mean is called a mean, and says of what."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from util.distributed import sum_over_ranks


@dataclass
class Sums:
    """Sums of named scalars over optimizer steps, kept on their device until somebody asks."""

    names: tuple[str, ...] = ()
    total: Tensor | None = None
    steps: int = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """One step more. The names must be the same on every step."""
        if self.total is None:
            self.names = tuple(values)
        row = torch.stack([values[name].detach().to(torch.float32) for name in self.names])
        self.total = row if self.total is None else self.total + row
        self.steps += 1

    def read(self) -> dict[str, float]:
        """The sums over steps and ranks; one copy from the device and one all-reduce, on every rank together."""
        if self.total is None:
            return {}
        return dict(zip(self.names, sum_over_ranks(self.total.clone()).tolist(), strict=True))


@dataclass
class StepMeter:
    """What the log says of a stretch of optimizer steps.

    Losses are averaged over steps and ranks, counts are summed. `loss` over a stretch is the mean of the loss that the
    optimizer saw; a median would hide the steps that have boxes where most have none.
    """

    losses: Sums = field(default_factory=Sums)
    counts: Sums = field(default_factory=Sums)

    def add(self, losses: dict[str, Tensor], counts: dict[str, int], device: torch.device) -> None:
        """One step more."""
        self.losses.add(losses)
        self.counts.add({k: torch.tensor(v, device=device) for k, v in counts.items()})

    def read(self, world_size: int) -> dict[str, float]:
        """Means of the losses and sums of the counts, over the steps since the start and over the ranks."""
        divisor = max(1, self.losses.steps) * world_size
        values = {name: value / divisor for name, value in self.losses.read().items()}
        return {**values, **{name: int(value) for name, value in self.counts.read().items()}}
