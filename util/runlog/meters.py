"""Running sums of losses, events and counts; every metric of the log is a ratio of two of them."""

from __future__ import annotations

from collections import defaultdict
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
    """Sums of named scalars over optimizer steps, kept on their device until they are read."""

    names: tuple[str, ...] = ()
    total: Tensor | None = None
    steps: int = 0
    is_restored: bool = False  # from a checkpoint, and no step has been added since

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a step. The names must be the same on every step.

        Raises:
            UserError: the checkpoint has sums of other names.
        """
        if self.total is None:
            self.names = tuple(values)
        elif self.is_restored and values.keys() != set(self.names):
            raise UserError(
                f"the log of this epoch has collected {first_few(self.names)} before this start, and now there are "
                f"{first_few([*values])}: within an epoch a run resumes with unchanged loss knobs only. Restore them, "
                "or resume from a checkpoint of the end of an epoch"
            )
        self.is_restored = False
        row = torch.stack([values[name].detach().to(torch.float32) for name in self.names])
        self.total = row if self.total is None else self.total + row
        self.steps += 1

    def restore(self, states: Sequence[dict[str, Any]], factor: float, device: torch.device) -> None:
        """Restore the sum of the states of several ranks, multiplied by `factor`."""
        self.names = tuple(states[0]["names"])
        self.steps = states[0]["steps"]
        if self.names:
            self.total = torch.tensor([s["total"] for s in states], device=device).sum(dim=0) * factor
            self.is_restored = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        total = [] if self.total is None else self.total.tolist()
        return {"names": list(self.names), "total": total, "steps": self.steps}

    def read(self) -> dict[str, float]:
        """Sum over steps and ranks, by one all-reduce and one copy from the device; all ranks must call it."""
        if self.total is None:
            return {}
        return dict(zip(self.names, sum_over_ranks(self.total.clone()).tolist(), strict=True))


@dataclass(frozen=True)
class Totals:
    """Sums of consecutive optimizer steps over steps and ranks."""

    steps: int = 0  # without skipped ones
    losses: Mapping[str, float] = field(default_factory=dict)  # means over ranks, summed over steps
    events: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    step_losses: tuple[float, ...] = ()  # the loss of every step

    def __add__(self, other: Totals) -> Totals:
        """Return the sums of both groups of steps."""
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
    """Collects consecutive optimizer steps on one rank.

    Losses and events stay on their device and counts on the host, so adding a step never synchronises.
    """

    keeps_steps: bool = False  # also the loss of every step
    losses: Sums = field(default_factory=Sums)
    events: Sums = field(default_factory=Sums)
    counts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(int))
    step_losses: list[Tensor] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor], events: Mapping[str, Tensor], counts: Mapping[str, float]) -> None:
        """Add a step, without losses if it was skipped. The names of the counts must not change."""
        if losses:
            self.losses.add(losses)
        if events:
            self.events.add(events)
        if losses and self.keeps_steps:
            self.step_losses.append(losses["loss"].detach().to(torch.float32))
        for name, count in counts.items():
            self.counts[name] += count

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this rank as plain values."""
        return {
            "losses": self.losses.state_dict(),
            "events": self.events.state_dict(),
            "counts": dict(self.counts),
            "step_losses": torch.stack(self.step_losses).tolist() if self.step_losses else [],
        }

    def restore(self, states: Sequence[dict[str, Any]], process: ProcessInfo, device: torch.device) -> None:
        """Restore the `state_dict` of every rank of the run before its resume.

        If the number of ranks has changed, every rank gets the mean of the losses, and the first one all events and
        counts.
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
        """Return the totals over steps and ranks; synchronises with the device. All ranks must call it."""
        losses = {name: value / process.world_size for name, value in self.losses.read().items()}
        names = sorted(self.counts)
        counts = torch.tensor([float(self.counts[name]) for name in names], dtype=torch.float64, device=device)
        summed = dict(zip(names, sum_over_ranks(counts).tolist(), strict=True)) if names else {}
        by_step: tuple[float, ...] = ()
        if self.step_losses:
            by_step = tuple((sum_over_ranks(torch.stack(self.step_losses)) / process.world_size).tolist())
        return Totals(self.losses.steps, losses, self.events.read(), summed, by_step)
