"""COCO average precision and recall of boxes.

The metrics are those of the COCO detection challenge (Lin et al. 2014, https://cocodataset.org/#detection-eval), equal
to pycocotools' to the last digit. Class-agnostic metrics are this same function on tables of one label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import Steps, build_steps
from util.metrics.coco.match import FALSE_POSITIVE, IOUS, SIZES, TRUE_POSITIVE, Matches, match_category
from util.metrics.tables import Detections, GroundTruth

# metric -> (IoU threshold, None for the mean over all; size of the boxes; detections per image and class)
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
METRICS = (*PRECISIONS, *RECALLS)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


def coco_ap(truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """Compute AP and AR in [0, 1], each the mean over the categories that have boxes of that size.

    A metric that no category defines is absent. See `per_category` for what is evaluated.
    """
    return mean_over_categories(per_category(truth, detections).values())


def per_category(truth: GroundTruth, detections: Detections) -> dict[str, dict[str, float]]:
    """Compute the same metrics of each category by name; a category or a metric without ground truth is absent.

    Every image of `truth` counts, so false positives on images without a box do too. Detections on other images, and
    those whose label is no category of `truth`, are ignored, as COCOeval does. Between detections of equal score
    the order of the rows decides.

    Raises:
        ValueError: when `detections` do not cover every image of `truth`.
    """
    return {name: category_metrics(matches) for name, matches in match_categories(truth, detections).items()}


def match_categories(truth: GroundTruth, detections: Detections) -> dict[str, Matches]:
    """Match each category that has a box, by name; detections and errors as in `per_category`."""
    require_coverage(truth, detections)
    present = [int(k) for k in np.unique(truth.label[~truth.is_crowd])]
    keys = truth.category_keys
    return {keys.get(k, str(k)): match_category(truth, detections, k) for k in present}


def require_coverage(truth: GroundTruth, detections: Detections) -> None:
    """Raise ValueError when `detections` do not cover every image of `truth`."""
    unseen = sorted(set(truth.images) - set(detections.images))
    if unseen:
        raise ValueError(
            f"detections cover {len(detections.images)} images, but {len(unseen)} images of the ground truth are not "
            f"among them, such as {unseen[:5]}; restrict the ground truth with truth.on(detections.images)"
        )


def mean_over_categories(categories: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the categories that define it."""
    categories = list(categories)
    columns = {metric: [c[metric] for c in categories if metric in c] for metric in METRICS}
    return {metric: float(np.mean(column)) for metric, column in columns.items() if column}


def category_metrics(matches: Matches) -> dict[str, float]:
    """The metrics of one category; those without ground truth are absent."""
    sizes = list(SIZES)
    num_boxes = dict(zip(sizes, matches.num_boxes.sum(axis=1).tolist(), strict=True))
    curves = {size: precisions(matches, size) for size in sizes if num_boxes[size]}
    values = {
        name: float(curves[size][_rows(iou)].mean()) for name, (iou, size, _) in PRECISIONS.items() if size in curves
    }
    for name, (iou, size, most) in RECALLS.items():
        if size in curves:
            is_matched = matches.outcome[sizes.index(size)][:, matches.rank < most] == TRUE_POSITIVE
            values[name] = float((is_matched.sum(axis=1) / num_boxes[size])[_rows(iou)].mean())
    return values


def precisions(matches: Matches, size: str = "all") -> NDArray[np.float64]:
    """Interpolated precision [IoUs, 101]: the best at or beyond each level of recall."""
    row = list(SIZES).index(size)
    num_boxes = np.array([matches.num_boxes[row].sum()], dtype=float)
    curves = []
    for outcome in matches.outcome[row]:
        at = np.flatnonzero(outcome == TRUE_POSITIVE)
        true_positives = np.arange(1.0, len(at) + 1)
        false_positives = np.cumsum(outcome == FALSE_POSITIVE)[at]
        curves.append(_interpolate(true_positives[:, None], false_positives[:, None], num_boxes)[0])
    return np.stack(curves)


@dataclass(frozen=True)
class APCurve:
    """Precision and recall of one category, so that AP can be computed for any weights of the images."""

    steps: Sequence[Steps]  # one per IoU threshold
    num_boxes: NDArray[np.float64]  # [I]

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """AP, AP50 and AP75 as [D], when image i counts `weights[i, d]` times; NaN in a draw without ground truth."""
        num_boxes = self.num_boxes @ weights
        levels = np.stack([_interpolate(*steps.counts(weights), num_boxes) for steps in self.steps], axis=1)
        levels[num_boxes == 0] = np.nan
        names = {"AP": None, "AP50": 0.50, "AP75": 0.75}
        return {name: levels[:, _rows(iou)].reshape(len(levels), -1).mean(axis=1) for name, iou in names.items()}


def ap_curve(matches: Matches) -> APCurve:
    """Build the curve of a category's matches, of boxes of all sizes."""
    num_images = matches.num_boxes.shape[1]
    steps = []
    for outcome in matches.outcome[0]:
        rows = outcome >= FALSE_POSITIVE
        is_true = outcome[rows] == TRUE_POSITIVE
        at = np.cumsum(is_true) - is_true  # a false positive belongs to the next true positive
        steps.append(build_steps(at, is_true, matches.image[rows], (int(is_true.sum()), num_images)))
    return APCurve(steps, matches.num_boxes[0].astype(float))


def _rows(iou: float | None) -> NDArray | slice:
    return slice(None) if iou is None else np.flatnonzero(np.isclose(IOUS, iou))


def _interpolate(true_positives: NDArray, false_positives: NDArray, num_boxes: NDArray) -> NDArray[np.float64]:
    """Interpolated precision [D, 101] of counts [K, D] and ground truth boxes [D]; 0 beyond the last recall."""
    num_steps, num_draws = true_positives.shape
    levels = np.zeros((num_draws, len(RECALL_LEVELS)))
    if not num_steps:
        return levels
    precision = true_positives / (false_positives + true_positives + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(true_positives, num_boxes, out=np.zeros_like(true_positives), where=num_boxes > 0)
    for draw in range(num_draws):
        at = np.searchsorted(recall[:, draw], RECALL_LEVELS, side="left")
        reached = at < num_steps
        levels[draw, reached] = best[at[reached], draw]
    return levels
