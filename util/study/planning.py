"""Which runs are pending, whether one may still start, and how long the rest takes; times are arguments."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import median

from util.study.design import PlannedRun


@dataclass(frozen=True)
class Budget:
    """Time limit of a study; times in seconds of one clock."""

    start: float
    seconds: float = inf

    def allows(self, now: float, durations: Sequence[float]) -> bool:
        """Whether a run that starts now ends in time if it takes as long as the median so far.

        As long as none has ended, one may start while there is time.
        """
        end = self.start + self.seconds
        return now + (median(durations) if durations else 0.0) <= end and now < end


def pending(runs: Sequence[PlannedRun], done: Collection[tuple[str, int]]) -> list[PlannedRun]:
    """The runs whose key (cell, seed) is not among the finished ones, in their order."""
    return [run for run in runs if run.key not in done]


def seconds_left(num_runs: int, workers: int, durations: Sequence[float]) -> float | None:
    """How long the runs take on parallel workers; None as long as no duration is known."""
    return ceil(num_runs / workers) * median(durations) if durations else None


def format_duration(seconds: float | None) -> str:
    """Format a duration as "1 h 05 min", "12 min" or "40 s"."""
    if seconds is None:
        return "an unknown time"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
