"""Compare two runs on the same images: paired differences of their metrics, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

from util.metrics.bootstrap import Difference, difference, point, resample
from util.metrics.report.protocols import VIEWS, MatchedTables, Metrics

SHOWN = ("AP", "AP50", "froc@0.5", "froc_mean", "auc")


def compare(a: MatchedTables, b: MatchedTables, draws: int, seed: int) -> dict[str, Difference]:
    """Compute run B minus run A in each metric that has an interval, both on the same images.

    Raises:
        ValueError: the two were not evaluated on the same images.
    """
    if a.ids.tolist() != b.ids.tolist():
        raise ValueError("two runs can be compared on the same images only")
    differences: dict[str, Difference] = {}
    for view in VIEWS:
        images, metrics = a.view(view)
        _, others = b.view(view)
        before = point(metrics, images)
        after = point(others, images)
        drawn, drawn_after = (resample(m, images, draws, seed) for m in (metrics, others))
        for key in (key for key in before if key in after):
            gap = difference(drawn[key], drawn_after[key], after[key] - before[key])
            if gap is not None:
                differences[f"{view}/{key}"] = gap
    return differences


def comparison_metrics(differences: Mapping[str, Difference]) -> Metrics:
    """The differences under the keys of a report: KEY/difference, KEY/difference/ci95 and KEY/difference/p."""
    values: Metrics = {}
    for key, gap in differences.items():
        values |= {f"{key}/difference": gap.value, f"{key}/difference/ci95": [gap.low, gap.high]}
        values[f"{key}/difference/p"] = gap.p
    return values


def format_comparison(differences: Mapping[str, Difference]) -> str:
    """Format the differences of the metrics named in SHOWN as a table. No newline at the end."""
    shown = {key: gap for key, gap in differences.items() if key.rpartition("/")[2] in SHOWN}
    width = max(map(len, shown), default=0)
    lines = [f"{'':{width}}{'difference':>12}  95 % interval        p"]
    for key, gap in shown.items():
        lines.append(f"{key:{width}} {gap.value:+11.4f}  [{gap.low:+.4f}, {gap.high:+.4f}]  {gap.p:.3f}")
    return "\n".join(lines)
