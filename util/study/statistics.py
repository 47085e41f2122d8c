"""Means and differences of runs, with intervals that say how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean

from scipy.stats import binomtest, sem
from scipy.stats import t as student

from util.study.results import Row

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; without an interval where there are fewer than two values."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """The mean and Student's t interval, 95 %, of the values that are there; None without any."""
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
    """A share and Wilson's 95 % interval (Wilson 1927), which stays inside 0 to 1; None of nothing."""
    if not total:
        return None
    interval = binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high), total)


def pairs(rows: Sequence[Row], levels: Mapping[str, Mapping[str, str]], factor: str, a: str, b: str) -> list[tuple]:
    """(row at level a, row at level b) of all runs that share the seed and the levels of all other factors.

    Args:
        rows: runs that are done.
        levels: cell -> factor -> level.
    """

    def rest(row: Row) -> tuple:
        return row.seed, tuple(sorted((k, v) for k, v in levels[row.cell].items() if k != factor))

    partners = {rest(row): row for row in rows if levels[row.cell][factor] == b}
    first = [row for row in rows if levels[row.cell][factor] == a]
    return [(row, partners[rest(row)]) for row in first if rest(row) in partners]


def difference(couples: Sequence[tuple[Row, Row]], figure: str) -> Estimate | None:
    """The mean of second less first over pairs of rows, with Student's t interval over the pairs."""
    values = [(a.figure(figure), b.figure(figure)) for a, b in couples]
    return estimate(y - x for x, y in values if x is not None and y is not None)
