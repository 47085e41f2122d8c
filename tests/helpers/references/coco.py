"""COCO average precision and recall by pycocotools itself: what util.metrics.coco.ap must equal to the last digit.

The figures are those of the COCO detection challenge (Lin et al. 2014, https://cocodataset.org/#detection-eval).
Class-agnostic figures are this same function on tables of one label.
"""

import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from util.metrics.tables import BoxTable, Detections, GroundTruth

# figure -> (what COCOeval accumulated, IoU threshold, size of the truth, detections per image and class)
PRECISIONS: dict[str, tuple[float | None, str, int]] = {
    "AP": (None, "all", 100),
    "AP50": (0.50, "all", 100),
    "AP75": (0.75, "all", 100),
    "AP_small": (None, "small", 100),
    "AP_medium": (None, "medium", 100),
    "AP_large": (None, "large", 100),
}
RECALLS: dict[str, tuple[float | None, str, int]] = {
    "AR1": (None, "all", 1),
    "AR10": (None, "all", 10),
    "AR100": (None, "all", 100),
    "AR_small": (None, "small", 100),
    "AR_medium": (None, "medium", 100),
    "AR_large": (None, "large", 100),
}
FIGURES = (*PRECISIONS, *RECALLS)


def coco_ap(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """AP and AR in [0, 1], each the mean over the categories that have truth of that size.

    A figure that no category defines is absent. See `per_category` for what is evaluated.
    """
    return mean_over_categories(per_category(truth, found).values())


def per_category(truth: GroundTruth, found: Detections) -> dict[str, dict[str, float]]:
    """The same figures of each category by name; a category or a figure without truth is absent.

    Every image of `truth` counts, so false alarms on images without a box do too. Detections on other images, and
    those whose label is no category of `truth`, are ignored, as COCOeval does. Between detections of equal score
    the order of the rows decides.

    Raises:
        ValueError: when `found` does not cover every image of `truth`.
    """
    unseen = sorted(set(truth.images) - set(found.images))
    if unseen:
        raise ValueError(
            f"detections cover {len(found.images)} images, but {len(unseen)} images of the truth are not among them, "
            f"such as {unseen[:5]}; cut the truth down with truth.on(found.images)"
        )
    present = [int(k) for k in np.unique(truth.label[~truth.is_crowd])]
    if not present:
        return {}
    evaluation = _evaluate(truth, found, present)
    names = {k: truth.names.get(k, str(k)) for k in present}
    return {names[k]: _figures(evaluation, column) for column, k in enumerate(present)}


def mean_over_categories(categories: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over those categories that define it."""
    categories = list(categories)
    columns = {figure: [c[figure] for c in categories if figure in c] for figure in FIGURES}
    return {figure: float(np.mean(column)) for figure, column in columns.items() if column}


def _evaluate(truth: GroundTruth, found: Detections, categories: list[int]) -> COCOeval:
    # pycocotools says what it does on stdout, whether or not anyone wants to know
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, _truth_rows(truth)), _index(truth, _found_rows(truth, found)), "bbox")
        evaluation.params.imgIds = sorted(truth.images)
        evaluation.params.catIds = categories
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _figures(evaluation: COCOeval, column: int) -> dict[str, float]:
    """One category's figures. COCOeval marks with -1 what has no truth."""
    precision = evaluation.eval["precision"][:, :, column]  # [IoU, recall level, size, detections]
    recall = evaluation.eval["recall"][:, column]  # [IoU, size, detections]
    values = {name: _pick(evaluation, precision, *where) for name, where in PRECISIONS.items()}
    values |= {name: _pick(evaluation, recall, *where) for name, where in RECALLS.items()}
    return {name: float(v.mean()) for name, v in values.items() if (v > -1).all()}


def _pick(evaluation: COCOeval, cube: NDArray, iou: float | None, size: str, detections: int) -> NDArray:
    p = evaluation.params
    rows = slice(None) if iou is None else np.flatnonzero(np.isclose(p.iouThrs, iou))
    return cube[rows][..., p.areaRngLbl.index(size), p.maxDets.index(detections)]


def _index(truth: GroundTruth, rows: list[dict]) -> COCO:
    index = COCO()
    index.dataset = {
        "images": [{"id": i} for i in truth.images],
        "categories": [{"id": int(k)} for k in truth.names],
        "annotations": rows,
    }
    index.createIndex()
    return index


def _truth_rows(truth: GroundTruth) -> list[dict]:
    crowd = truth.is_crowd.astype(int).tolist()
    return [
        row | {"area": area, "iscrowd": is_crowd}
        for row, area, is_crowd in zip(_rows(truth), truth.area.tolist(), crowd, strict=True)
    ]


def _found_rows(truth: GroundTruth, found: Detections) -> list[dict]:
    found = found.on(truth.images)
    return [
        row | {"area": row["bbox"][2] * row["bbox"][3], "score": score}
        for row, score in zip(_rows(found), found.score.tolist(), strict=True)
    ]


def _rows(boxes: BoxTable) -> list[dict]:
    xyxy = np.asarray(boxes.xyxy, dtype=np.float64)
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
    columns = zip(boxes.image_id.tolist(), boxes.label.tolist(), xywh, strict=True)
    # ids start at 1: COCOeval reads a match with id 0 as no match
    return [{"id": n, "image_id": i, "category_id": k, "bbox": b} for n, (i, k, b) in enumerate(columns, start=1)]
