"""A report as text for the log, below 100 columns wide."""

from collections.abc import Mapping

import numpy as np

from util.base.text import printable
from util.metrics.froc import FPPI_RATES
from util.metrics.report.protocols import Metrics, images_with_boxes
from util.metrics.tables import GroundTruth, shown_category

AP_COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "small",
    "AP_medium": "medium",
    "AP_large": "large",
    "AR100": "AR100",
}
FROC_COLUMNS = {f"froc@{rate:g}": f"{rate:g}" for rate in FPPI_RATES} | {"froc_mean": "mean"}
IMAGE_METRICS = {
    "auc": "AUC",
    "partial_auc": "partial AUC (mean specificity at sensitivities from 0.9 on)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "false_alarms": "false positives per negative image (FPPI)",
}
VIEW_TITLES = {"all": "all images", "tb_only": "images with boxes"}
MEASURE_TITLES = {"agnostic": "class-agnostic", "per_class": "mean over classes (mAP)"}
FIRST_COLUMN = 36  # characters wide
COLUMN = 7


def format_table(values: Metrics, truth: GroundTruth) -> str:
    """Format one block per view of the images, then FROC and image level; '-' stands where nothing is defined.

    Intervals are in square brackets, where the report has them. No newline at the end.
    """
    views = {"all": truth, "tb_only": images_with_boxes(truth)}
    blocks = [_counts(truth)]
    blocks += [_block(values, view, images) for view, images in views.items()]
    blocks += [_froc(values)] if "all/agnostic/froc_mean" in values else []
    blocks += [_image_level(values)] if any(f"all/image/{key}" in values for key in IMAGE_METRICS) else []
    return "\n".join(blocks)


def _counts(truth: GroundTruth) -> str:
    images = f"{_many(len(truth.images), 'image')}, {len(images_with_boxes(truth).images)} with boxes"
    return f"{images}; {_many(int((~truth.is_crowd).sum()), 'box', 'boxes')}"


def _block(values: Metrics, view: str, truth: GroundTruth) -> str:
    labels = truth.label[~truth.is_crowd]
    rows = [(f"  {title}", measure, len(labels)) for measure, title in MEASURE_TITLES.items()]
    rows += [
        (f"    {printable(shown_category(name))}", f"per_class/{name}", int(np.sum(labels == k)))
        for k, name in sorted(truth.category_keys.items())
    ]
    lines = [_line(f"{VIEW_TITLES[view]} ({len(truth.images)})", [*AP_COLUMNS.values(), "boxes"])]
    for title, key, boxes in rows:
        lines.append(_line(title, [*(_number(values, f"{view}/{key}/{metric}") for metric in AP_COLUMNS), str(boxes)]))
    for measure, title in MEASURE_TITLES.items():
        if f"{view}/{measure}/AP/ci95" in values:
            intervals = [f"{metric} {_interval(values, f'{view}/{measure}/{metric}')}" for metric in ("AP", "AP50")]
            lines.append(f"  {title}, 95 %".ljust(FIRST_COLUMN) + "  " + "  ".join(intervals))
    return "\n".join(lines)


def _froc(values: Metrics) -> str:
    lines = [_line("FROC: sensitivity at FPPI of", list(FROC_COLUMNS.values()))]
    for view, title in VIEW_TITLES.items():
        for key, name in (("agnostic", "class-agnostic"), ("per_class", "per class")):
            lines.append(_line(f"  {title}, {name}", [_number(values, f"{view}/{key}/{m}") for m in FROC_COLUMNS]))
    return "\n".join(lines)


def _image_level(values: Metrics) -> str:
    lines = ["image level"]
    for metric, title in IMAGE_METRICS.items():
        key = f"all/image/{metric}"
        if key not in values:
            continue
        groups = {
            k.removeprefix(f"{key}_"): v for k, v in values.items() if k.startswith(f"{key}_") and "/ci95" not in k
        }
        each = ", ".join(f"{group} {v:.3f}" for group, v in groups.items())
        line = f"  {title}: {values[key]:.3f} {_interval(values, key)}".rstrip() + (f" ({each})" if each else "")
        lines.append(line)
    return "\n".join(lines)


def _number(values: Mapping, key: str) -> str:
    return f"{values[key]:.3f}" if key in values else "-"


def _interval(values: Metrics, key: str) -> str:
    ends = values.get(f"{key}/ci95")
    return "[{:.3f}, {:.3f}]".format(*ends) if isinstance(ends, list) else ""


def _line(title: str, cells: list[str]) -> str:
    if len(title) > FIRST_COLUMN:
        title = title[: FIRST_COLUMN - 3] + "..."
    return title.ljust(FIRST_COLUMN) + "".join(cell.rjust(COLUMN) for cell in cells)


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"
