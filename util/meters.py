"""Running sums of training figures. A mean is called a mean, and says of what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from util.distributed import sum_over_ranks
from util.launcher import Ranks


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

    def restore(self, states: Sequence[dict[str, Any]], factor: float, device: torch.device) -> None:
        """Take over the states of several ranks, added up and multiplied by `factor`."""
        self.names, self.steps = tuple(states[0]["names"]), states[0]["steps"]
        if self.names:
            self.total = torch.tensor([s["total"] for s in states], device=device).sum(dim=0) * factor

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        total = [] if self.total is None else self.total.tolist()
        return {"names": list(self.names), "total": total, "steps": self.steps}

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
        """One step more; without losses, one that was not taken."""
        if losses:
            self.losses.add(losses)
        self.counts.add({k: torch.tensor(v, device=device) for k, v in counts.items()})

    def state_dict(self) -> dict[str, Any]:
        """Plain values, of this rank."""
        return {"losses": self.losses.state_dict(), "counts": self.counts.state_dict()}

    def restore(self, states: Sequence[dict[str, Any]], here: Ranks, device: torch.device) -> None:
        """Go on from the `state_dict` of every rank of a run's earlier part, whose number of ranks may have differed.

        Then every rank gets the mean of the losses, and the first one all counts.
        """
        is_same = len(states) == here.world_size
        states = [states[here.rank]] if is_same else states
        self.losses.restore([s["losses"] for s in states], 1.0 / len(states), device)
        self.counts.restore([s["counts"] for s in states], 1.0 if is_same else float(here.is_main), device)

    def read(self, world_size: int) -> dict[str, float]:
        """Means of the losses and sums of the counts, over the steps since the start and over the ranks."""
        divisor = max(1, self.losses.steps) * world_size
        values = {name: value / divisor for name, value in self.losses.read().items()}
        return {**values, **{name: int(value) for name, value in self.counts.read().items()}}
