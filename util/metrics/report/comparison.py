"""Compare two runs on the same images: paired differences of their metrics, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from util.base.text import label
from util.metrics.bootstrap import Difference, difference, point, resample
from util.metrics.report.protocols import VIEWS, MatchedTables, Metrics

SHOWN = ("AP", "AP50", "froc@0.5", "froc_mean", "auc")


@dataclass(frozen=True)
class Compared(Difference):
    """A metric of run A and of run B, and their difference B - A."""

    a: float
    b: float


def compare(a: MatchedTables, b: MatchedTables, draws: int, seed: int) -> dict[str, Compared]:
    """Compare run B with run A in each metric that has an interval, both on the same images.

    Raises:
        ValueError: the two were not evaluated on the same images.
    """
    if a.ids.tolist() != b.ids.tolist():
        raise ValueError("two runs can be compared on the same images only")
    compared: dict[str, Compared] = {}
    for view in VIEWS:
        images, metrics = a.view(view)
        _, others = b.view(view)
        before = point(metrics, images)
        after = point(others, images)
        drawn, drawn_after = (resample(m, images, draws, seed) for m in (metrics, others))
        for key in (key for key in before if key in after):
            gap = difference(drawn[key], drawn_after[key], after[key] - before[key])
            if gap is not None:
                compared[f"{view}/{key}"] = Compared(**vars(gap), a=before[key], b=after[key])
    return compared


def comparison_metrics(compared: Mapping[str, Compared]) -> Metrics:
    """The values and differences under the keys of a report: KEY/A, KEY/B, KEY/difference, and its /ci95 and /p."""
    values: Metrics = {}
    for key, gap in compared.items():
        values |= {f"{key}/A": gap.a, f"{key}/B": gap.b}
        values |= {f"{key}/difference": gap.value, f"{key}/difference/ci95": [gap.low, gap.high]}
        values[f"{key}/difference/p"] = gap.p
    return values


def format_comparison(compared: Mapping[str, Compared]) -> str:
    """Format the metrics named in SHOWN of both runs, and their difference, as a table. No newline at the end."""
    shown = {key: values for key, values in compared.items() if key.rpartition("/")[2] in SHOWN}
    names = {key: label(key) for key in shown}
    width = max(map(len, names.values()), default=0)
    lines = [f"{'':{width}}{'A':>9}{'B':>9}{'B - A':>10}  95 % interval        p"]
    for key, gap in shown.items():
        values = f"{gap.a:9.4f}{gap.b:9.4f}{gap.value:+10.4f}"
        lines.append(f"{names[key]:{width}}{values}  [{gap.low:+.4f}, {gap.high:+.4f}]  {gap.p:.3f}")
    return "\n".join(lines)
