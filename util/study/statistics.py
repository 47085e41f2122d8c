"""Means and differences of runs, with intervals that say how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import mean, stdev

from scipy.stats import t as student

from util.study.results import Row

LEVEL = 0.95
NORMAL = 1.959963984540054  # its quantile at .975


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
    half = float(student.ppf((1 + LEVEL) / 2, len(known) - 1)) * stdev(known) / sqrt(len(known))
    return Estimate(mean(known), mean(known) - half, mean(known) + half, len(known))


def share(hits: int, total: int) -> Estimate | None:
    """A share and Wilson's 95 % interval (Wilson 1927), which stays inside 0 to 1; None of nothing."""
    if not total:
        return None
    p = hits / total
    z2 = NORMAL**2
    centre = p + z2 / (2 * total)
    half = NORMAL * sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return Estimate(p, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), total)


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


def over_seeds(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by a key, in the order in which the keys come."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
