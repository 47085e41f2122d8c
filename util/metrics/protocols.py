"""What is reported after an evaluation: every measure on every choice of images, and a table to read.

A measure is a function (truth, found) -> {key: value}; a view of the images is a function truth -> truth.
A new measure is a new function in MEASURES, and a row here where it should be printed.
"""

from collections.abc import Callable, Mapping

from util.metrics.coco_ap import coco_ap, mean_over_categories, per_category
from util.metrics.tables import Detections, GroundTruth

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "small",
    "AP_medium": "medium",
    "AP_large": "large",
    "AR100": "AR100",
}
FIRST_COLUMN, COLUMN = 36, 7  # characters, so that a line stays below 100


def report(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """Every figure under a flat key VIEW/MEASURE/...; a figure without truth is absent.

    Keys are {all,tb_only}/per_class/AP (the mean over categories), .../per_class/NAME/AP (one category) and
    .../agnostic/AP (every box of one class), for each of util.metrics.coco_ap.FIGURES.
    """
    values: dict[str, float] = {}
    for view, choose in VIEWS.items():
        seen = choose(truth)
        for name, measure in MEASURES.items():
            values |= {f"{view}/{name}/{key}": value for key, value in measure(seen, found).items()}
    return values


def all_images(truth: GroundTruth) -> GroundTruth:
    """Every image of the split: false alarms on images without a box count."""
    return truth


def images_with_boxes(truth: GroundTruth) -> GroundTruth:
    """Only images with a box that is no crowd, the 'Only TB' rows of the TBX11K benchmark."""
    return truth.on(truth.image_id[~truth.is_crowd].tolist())


def per_class(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """COCO figures of each category as NAME/FIGURE, and their means as FIGURE."""
    categories = per_category(truth, found)
    each = {f"{name}/{key}": value for name, figures in categories.items() for key, value in figures.items()}
    return mean_over_categories(categories.values()) | each


def agnostic(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """COCO figures when all categories are one."""
    one = dict.fromkeys(truth.names, min(truth.names, default=0))
    return coco_ap(truth.relabelled(one), found.relabelled(one))


VIEWS: dict[str, Callable[[GroundTruth], GroundTruth]] = {"all": all_images, "tb_only": images_with_boxes}
MEASURES: dict[str, Callable[[GroundTruth, Detections], dict[str, float]]] = {
    "agnostic": agnostic,
    "per_class": per_class,
}


def format_table(values: Mapping[str, float], truth: GroundTruth) -> str:
    """A report as text, below 100 columns wide, without a newline at the end.

    One block per view of the images; '-' stands where nothing is defined.
    """
    titles = {"all": "all images", "tb_only": "images with boxes"}
    blocks = [_block(values, view, titles[view], choose(truth)) for view, choose in VIEWS.items()]
    return "\n".join([_counts(truth), *blocks])


def _counts(truth: GroundTruth) -> str:
    positive = len(images_with_boxes(truth).images)
    images = f"{_many(len(truth.images), 'image')}, {positive} with boxes"
    return f"{images}; {_many(int((~truth.is_crowd).sum()), 'box', 'boxes')}"


def _block(values: Mapping[str, float], view: str, title: str, truth: GroundTruth) -> str:
    labels = truth.label[~truth.is_crowd]
    lines = [_line(f"{title} ({len(truth.images)})", [*COLUMNS.values(), "boxes"])]
    lines += [_row(values, "  class-agnostic", f"{view}/agnostic", len(labels))]
    lines += [_row(values, "  mean over classes", f"{view}/per_class", len(labels))]
    for label, name in sorted(truth.names.items()):
        lines += [_row(values, f"    {name}", f"{view}/per_class/{name}", int((labels == label).sum()))]
    return "\n".join(lines)


def _row(values: Mapping[str, float], title: str, prefix: str, boxes: int) -> str:
    figures = [values.get(f"{prefix}/{figure}") for figure in COLUMNS]
    return _line(title, [*("-" if v is None else f"{v:.3f}" for v in figures), str(boxes)])


def _line(title: str, cells: list[str]) -> str:
    if len(title) > FIRST_COLUMN:
        title = title[: FIRST_COLUMN - 3] + "..."
    return title.ljust(FIRST_COLUMN) + "".join(cell.rjust(COLUMN) for cell in cells)


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"
