"""A report as text for the log, below 100 columns wide."""

from collections.abc import Mapping

import numpy as np

from util.base.text import printable
from util.metrics.froc import FPPI_RATES
from util.metrics.report.protocols import Metrics, images_with_boxes
from util.metrics.tables import GroundTruth

AP_COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "small",
    "AP_medium": "medium",
    "AP_large": "large",
    "AR100": "AR100",
}
SENSITIVITIES = {f"froc@{rate:g}": f"{rate:g}" for rate in FPPI_RATES} | {"froc_mean": "mean"}
IMAGE_FIGURES = {
    "auc": "AUC",
    "partial_auc": "mean specificity from 90 % sensitivity on",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "false_alarms": "false alarms per image without tuberculosis",
}
TITLES = {"all": "all images", "tb_only": "images with boxes"}
FIRST_COLUMN = 36  # characters wide
COLUMN = 7


def format_table(values: Metrics, truth: GroundTruth) -> str:
    """One block per view of the images, then whole images; '-' stands where nothing is defined. No newline at the end.

    Intervals are in square brackets, where the report has them.
    """
    views = {"all": truth, "tb_only": images_with_boxes(truth)}
    blocks = [_counts(truth)]
    blocks += [_block(values, view, seen) for view, seen in views.items()]
    blocks += [_froc(values)] if "all/agnostic/froc_mean" in values else []
    blocks += [_images(values)] if any(f"all/image/{key}" in values for key in IMAGE_FIGURES) else []
    return "\n".join(blocks)


def _counts(truth: GroundTruth) -> str:
    images = f"{_many(len(truth.images), 'image')}, {len(images_with_boxes(truth).images)} with boxes"
    return f"{images}; {_many(int((~truth.is_crowd).sum()), 'box', 'boxes')}"


def _block(values: Metrics, view: str, truth: GroundTruth) -> str:
    labels = truth.label[~truth.is_crowd]
    lines = [_line(f"{TITLES[view]} ({len(truth.images)})", [*AP_COLUMNS.values(), "boxes"])]
    rows = [("  class-agnostic", "agnostic", len(labels)), ("  mean over classes", "per_class", len(labels))]
    rows += [
        (f"    {printable(n)}", f"per_class/{n}", int(np.sum(labels == k))) for k, n in sorted(truth.names.items())
    ]
    for title, key, boxes in rows:
        figures = [_number(values, f"{view}/{key}/{figure}") for figure in AP_COLUMNS]
        lines.append(_line(title, [*figures, str(boxes)]))
    for title, key in (("  class-agnostic", "agnostic"), ("  mean over classes", "per_class")):
        said = [f"{figure} {_interval(values, f'{view}/{key}/{figure}')}" for figure in ("AP", "AP50")]
        if f"{view}/{key}/AP/ci95" in values:
            lines.append(f"{title}, 95 %".ljust(FIRST_COLUMN) + "  " + "  ".join(said))
    return "\n".join(lines)


def _froc(values: Metrics) -> str:
    lines = [_line("sensitivity at false alarms / image", list(SENSITIVITIES.values()))]
    for view, title in TITLES.items():
        for key, name in (("agnostic", "class-agnostic"), ("per_class", "per class")):
            cells = [_number(values, f"{view}/{key}/{figure}") for figure in SENSITIVITIES]
            lines.append(_line(f"  {title}, {name}", cells))
    return "\n".join(lines)


def _images(values: Metrics) -> str:
    lines = ["whole images"]
    for figure, title in IMAGE_FIGURES.items():
        key = f"all/image/{figure}"
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
