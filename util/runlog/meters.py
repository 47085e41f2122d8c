"""Running sums of training figures: every figure of the log is a ratio of two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from util.base.errors import UserError
from util.base.launcher import ProcessInfo
from util.base.text import first_few
from util.distributed.collectives import sum_over_ranks


@dataclass
class Sums:
    """Sums of named scalars over optimizer steps, kept on their device until somebody asks."""

    names: tuple[str, ...] = ()
    total: Tensor | None = None
    steps: int = 0
    is_restored: bool = False  # and no step has been added since

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One step more. The names must be the same on every step.

        Raises:
            UserError: those of the part of the run before this start were others.
        """
        if self.total is None:
            self.names = tuple(values)
        elif self.is_restored and values.keys() != set(self.names):
            raise UserError(
                f"the log of this epoch has collected {first_few(self.names)} before this start, and now there are "
                f"{first_few([*values])}: inside an epoch a run goes on with the loss knobs it had. Take these, or a "
                "checkpoint of the end of an epoch"
            )
        self.is_restored = False
        row = torch.stack([values[name].detach().to(torch.float32) for name in self.names])
        self.total = row if self.total is None else self.total + row
        self.steps += 1

    def restore(self, states: Sequence[dict[str, Any]], factor: float, device: torch.device) -> None:
        """Take over the states of several ranks, added up and multiplied by `factor`."""
        self.names = tuple(states[0]["names"])
        self.steps = states[0]["steps"]
        if self.names:
            self.total = torch.tensor([s["total"] for s in states], device=device).sum(dim=0) * factor
            self.is_restored = True

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        total = [] if self.total is None else self.total.tolist()
        return {"names": list(self.names), "total": total, "steps": self.steps}

    def read(self) -> dict[str, float]:
        """The sums over steps and ranks; one copy from the device and one all-reduce, on every rank together."""
        if self.total is None:
            return {}
        return dict(zip(self.names, sum_over_ranks(self.total.clone()).tolist(), strict=True))


@dataclass(frozen=True)
class Totals:
    """What a stretch of optimizer steps adds up to, over steps and ranks."""

    steps: int = 0  # that were taken
    losses: Mapping[str, float] = field(default_factory=dict)  # of each step the mean over ranks
    events: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    step_losses: tuple[float, ...] = ()  # the loss of every step by itself

    def __add__(self, other: Totals) -> Totals:
        """Both stretches as one."""
        return Totals(
            self.steps + other.steps,
            _added(self.losses, other.losses),
            _added(self.events, other.events),
            _added(self.counts, other.counts),
            self.step_losses + other.step_losses,
        )


def _added(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *(k for k in b if k not in a))}


@dataclass
class StepMeter:
    """Collects a stretch of optimizer steps on one rank.

    Losses and events stay on their device and counts on the host, so that adding a step waits for nothing.
    """

    keeps_steps: bool = False  # the loss of every step, too
    losses: Sums = field(default_factory=Sums)
    events: Sums = field(default_factory=Sums)
    counts: Counter[str] = field(default_factory=Counter)
    step_losses: list[Tensor] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor], events: Mapping[str, Tensor], counts: Mapping[str, float]) -> None:
        """One step more; without losses, one that was not taken. The names of the counts must not change."""
        if losses:
            self.losses.add(losses)
        if events:
            self.events.add(events)
        if losses and self.keeps_steps:
            self.step_losses.append(losses["loss"].detach().to(torch.float32))
        for name, count in counts.items():  # Counter.update would be slower
            self.counts[name] += count

    def state_dict(self) -> dict[str, Any]:
        """Plain values, of this rank."""
        return {
            "losses": self.losses.state_dict(),
            "events": self.events.state_dict(),
            "counts": dict(self.counts),
            "step_losses": torch.stack(self.step_losses).tolist() if self.step_losses else [],
        }

    def restore(self, states: Sequence[dict[str, Any]], process: ProcessInfo, device: torch.device) -> None:
        """Go on from the `state_dict` of every rank of a run's earlier part, whose number of ranks may have differed.

        Then every rank gets the mean of the losses, and the first one all events and counts.
        """
        is_same = len(states) == process.world_size
        states = [states[process.rank]] if is_same else states
        share = 1.0 if is_same else float(process.is_main)
        self.losses.restore([s["losses"] for s in states], 1.0 / len(states), device)
        self.events.restore([s["events"] for s in states], share, device)
        for state in states:
            for name, count in state["counts"].items():
                self.counts[name] += count * int(share)
        if states[0]["step_losses"]:
            columns = torch.tensor([s["step_losses"] for s in states], device=device)
            self.step_losses = list(columns.mean(dim=0))

    def read(self, process: ProcessInfo, device: torch.device) -> Totals:
        """The totals over steps and ranks; the only place that waits for the device. All ranks call it together."""
        losses = {name: value / process.world_size for name, value in self.losses.read().items()}
        names = sorted(self.counts)
        counts = torch.tensor([float(self.counts[name]) for name in names], dtype=torch.float64, device=device)
        found = dict(zip(names, sum_over_ranks(counts).tolist(), strict=True)) if names else {}
        by_step: tuple[float, ...] = ()
        if self.step_losses:
            by_step = tuple((sum_over_ranks(torch.stack(self.step_losses)) / process.world_size).tolist())
        return Totals(self.losses.steps, losses, self.events.read(), found, by_step)
