"""The metrics of a log row from sums over steps: each is a ratio of two sums, or None if its denominator is 0."""

from collections.abc import Collection, Mapping
from statistics import median
from typing import Any

from util.detection.batch import Window
from util.detection.class_map import IDENTITY, ClassMap
from util.runlog.class_skill import FocalSettings, best_constant_loss, class_skill
from util.runlog.meters import Totals


def window_counts(
    window: Window,
    denominator: float,
    category_ids: Collection[int],
    num_queries: int,
    classes: ClassMap = IDENTITY,
) -> dict[str, float]:
    """Count images and boxes of an optimizer step on this rank, on the host.

    Args:
        window: its batches, on the CPU.
        denominator: boxes of the step on all ranks, at least 1. Sums over ranks of counts divided by it have the units
            of the losses, which are means over ranks of sums divided by (boxes of all ranks / ranks).
        category_ids: all categories of the data.
        num_queries: of the network.
        classes: the class indices of the categories, which are the labels of the targets.

    Returns:
        images, images with boxes, boxes, boxes per category; sums of the boxes' sides as shares of the image; and for
        the best constant predictor, boxes per category and class slots over the denominator.
    """
    targets = [t for batch in window.batches if not batch.is_ghost for t in batch.targets]
    labels = [label for t in targets for label in t["labels"].tolist()]
    sides = [side for t in targets if len(t["labels"]) for side in t["boxes"][:, 2:].tolist()]
    counts: dict[str, float] = {
        "images": len(targets),
        "images_with_boxes": sum(len(t["labels"]) > 0 for t in targets),
        "boxes": len(labels),
        "skipped": 0,
        "width": sum(w for w, _ in sides),
        "height": sum(h for _, h in sides),
        "slots": len(targets) * num_queries / denominator,
    }
    for category, index in zip(category_ids, classes.indices(category_ids), strict=True):
        number = labels.count(index)
        counts[f"boxes/{category}"] = number
        counts[f"share/{category}"] = number / denominator
    return counts


def empty_counts(category_ids: Collection[int], *, skipped: int) -> dict[str, float]:
    """Return the counts of a skipped step: all 0 but `skipped`."""
    return {**window_counts(Window([]), 1.0, category_ids, 0), "skipped": skipped}


def row_metrics(totals: Totals, focal: FocalSettings) -> dict[str, Any]:
    """Compute the columns of a log row, in the order of docs/logs.md."""
    counts, events, steps = totals.counts, totals.events, totals.steps
    images = counts.get("images", 0)
    with_boxes = counts.get("images_with_boxes", 0)
    categories = sorted((k.split("/")[1] for k in counts if k.startswith("boxes/")), key=int)
    values: dict[str, Any] = {name: total / steps for name, total in totals.losses.items()} if steps else {}
    if totals.step_losses:
        values["loss_median"] = median(totals.step_losses)
    values["steps"] = steps
    for name in ("images", "images_with_boxes", "boxes", "skipped"):
        values[name] = round(counts.get(name, 0))
    values["boxes_by_category"] = {c: round(counts[f"boxes/{c}"]) for c in categories}
    for side in ("width", "height"):
        values[f"mean_box_{side}"] = ratio(counts.get(side, 0), counts.get("boxes", 0))
    if "matched" in events:
        values |= _event_metrics(events, images, with_boxes, counts)
    if "loss_ce" in totals.losses:
        constant = None
        if focal.is_focal:
            constant = best_constant_loss((counts[f"share/{c}"] for c in categories), counts["slots"], focal)
        values["loss_ce_of_best_constant"] = None if constant is None else constant / steps
        values["class_skill"] = class_skill(totals.losses["loss_ce"], constant)
    return values


def _event_metrics(
    events: Mapping[str, float], images: float, with_boxes: float, counts: Mapping[str, float]
) -> dict[str, Any]:
    matched = round(events["matched"])
    percent = ratio(100.0 * events["wrong_class"], matched)
    return {
        "loss_with_boxes": ratio(events["loss_with_boxes"], with_boxes),
        "loss_without_boxes": ratio(events["loss_without_boxes"], images - with_boxes),
        "class_error": percent,
        "class_error_n": matched,
        "recall_top10": ratio(events["found_top10"], counts["boxes"]),
        "best_score_with_boxes": ratio(events["best_score_with_boxes"], with_boxes),
        "best_score_without_boxes": ratio(events["best_score_without_boxes"], images - with_boxes),
        "predicted_per_image": ratio(events["predicted"], images),
        "boxes_per_image": ratio(counts["boxes"], images),
        "cardinality_error_unscaled": ratio(events["count_error"], images),
    }


def ratio(numerator: float, denominator: float) -> float | None:
    """Divide, or return None if the denominator is 0."""
    return numerator / denominator if denominator else None
