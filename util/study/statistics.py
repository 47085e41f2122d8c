"""Means and differences over runs, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean

from scipy.stats import binomtest, sem
from scipy.stats import t as student

from util.study.results import RunResult

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval; fewer than two values have none."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """The mean of the known values with Student's 95 % t interval; None without any."""
    known = [value for value in values if value is not None and isfinite(value)]
    if not known:
        return None
    if len(known) == 1:
        return Estimate(known[0], None, None, 1)
    centre = mean(known)
    error = sem(known)
    low, high = student.interval(LEVEL, len(known) - 1, loc=centre, scale=error) if error else (centre, centre)
    return Estimate(centre, float(low), float(high), len(known))


def share(hits: int, total: int) -> Estimate | None:
    """A share with Wilson's 95 % interval; None where the total is zero."""
    if not total:
        return None
    interval = binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high), total)


def pairs(
    rows: Sequence[RunResult], levels: Mapping[str, Mapping[str, str]], factor: str, a: str, b: str
) -> list[tuple[RunResult, RunResult]]:
    """Pairs of runs at levels a and b of a factor that share the seed and the levels of all other factors.

    Args:
        rows: runs that are done.
        levels: cell -> factor -> level.
    """

    def rest(row: RunResult) -> tuple:
        return row.seed, tuple(sorted((k, v) for k, v in levels[row.cell].items() if k != factor))

    partners = {rest(row): row for row in rows if levels[row.cell][factor] == b}
    first = [row for row in rows if levels[row.cell][factor] == a]
    return [(row, partners[rest(row)]) for row in first if rest(row) in partners]


def difference(couples: Sequence[tuple[RunResult, RunResult]], metric: str) -> Estimate | None:
    """The mean difference, second minus first, over pairs of runs, with Student's t interval over the pairs."""
    values = [(a.metric(metric), b.metric(metric)) for a, b in couples]
    return estimate(y - x for x, y in values if x is not None and y is not None)
