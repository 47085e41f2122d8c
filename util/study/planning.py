"""Which run comes next, whether it may still begin, and how long the rest takes. No clock of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import median

from util.study.design import PlannedRun


@dataclass(frozen=True)
class Budget:
    """How long a study may go on; times in seconds of one clock."""

    start: float
    seconds: float = inf

    def allows(self, now: float, durations: Sequence[float]) -> bool:
        """Whether a run that begins now ends in time if it takes as long as the median so far.

        As long as none has ended nobody knows, and one may begin while there is time.
        """
        return now + (median(durations) if durations else 0.0) <= self.start + self.seconds and now < self._end

    @property
    def _end(self) -> float:
        return self.start + self.seconds


def pending(runs: Sequence[PlannedRun], done: Collection[tuple[str, int]]) -> list[PlannedRun]:
    """The runs that are not done, (cell, seed), in their order."""
    return [run for run in runs if (run.cell.name, run.seed) not in done]


def seconds_left(num_runs: int, workers: int, durations: Sequence[float]) -> float | None:
    """How long so many runs take, side by side; None where nobody knows."""
    return ceil(num_runs / workers) * median(durations) if durations else None


def in_words(seconds: float | None) -> str:
    """A duration for people: "1 h 05 min", "12 min", "40 s"."""
    if seconds is None:
        return "an unknown time"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
