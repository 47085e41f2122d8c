"""COCO average precision and recall of boxes.

The figures are those of the COCO detection challenge (Lin et al. 2014, https://cocodataset.org/#detection-eval), equal
to pycocotools' to the last digit. Class-agnostic figures are this same function on relabelled tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import Steps, build_steps
from util.metrics.coco.match import FALSE_POSITIVE, IOUS, SIZES, TRUE_POSITIVE, Matches, match_category
from util.metrics.tables import Detections, GroundTruth

# figure -> (IoU threshold, None for the mean over all; size of the truth; detections per image and class)
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
    return {name: category_metrics(matches) for name, matches in match_categories(truth, found).items()}


def match_categories(truth: GroundTruth, found: Detections) -> dict[str, Matches]:
    """The matches of each category that has a box, by name; the same terms as `per_category`."""
    require_coverage(truth, found)
    present = [int(k) for k in np.unique(truth.label[~truth.is_crowd])]
    return {truth.names.get(k, str(k)): match_category(truth, found, k) for k in present}


def require_coverage(truth: GroundTruth, found: Detections) -> None:
    """Raise ValueError when `found` does not cover every image of `truth`."""
    unseen = sorted(set(truth.images) - set(found.images))
    if unseen:
        raise ValueError(
            f"detections cover {len(found.images)} images, but {len(unseen)} images of the truth are not among them, "
            f"such as {unseen[:5]}; cut the truth down with truth.on(found.images)"
        )


def mean_over_categories(categories: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over those categories that define it."""
    categories = list(categories)
    columns = {figure: [c[figure] for c in categories if figure in c] for figure in METRICS}
    return {figure: float(np.mean(column)) for figure, column in columns.items() if column}


def category_metrics(matches: Matches) -> dict[str, float]:
    """One category's figures; those without truth are absent."""
    sizes = list(SIZES)
    truths = dict(zip(sizes, matches.truths.sum(axis=1).tolist(), strict=True))
    curves = {size: precisions(matches, size) for size in sizes if truths[size]}
    values = {
        name: float(curves[size][_rows(iou)].mean()) for name, (iou, size, _) in PRECISIONS.items() if size in curves
    }
    for name, (iou, size, most) in RECALLS.items():
        if size in curves:
            hits = matches.outcome[sizes.index(size)][:, matches.rank < most] == TRUE_POSITIVE
            values[name] = float((hits.sum(axis=1) / truths[size])[_rows(iou)].mean())
    return values


def precisions(matches: Matches, size: str = "all") -> NDArray[np.float64]:
    """[IoUs, 101]: the best precision at or beyond each level of recall."""
    row = list(SIZES).index(size)
    truths = np.array([matches.truths[row].sum()], dtype=float)
    curves = []
    for outcome in matches.outcome[row]:
        at = np.flatnonzero(outcome == TRUE_POSITIVE)
        hits = np.arange(1.0, len(at) + 1)
        alarms = np.cumsum(outcome == FALSE_POSITIVE)[at]
        curves.append(_interpolate(hits[:, None], alarms[:, None], truths)[0])
    return np.stack(curves)


@dataclass(frozen=True)
class APCurve:
    """What AP under a choice of images needs of one category: its steps at each IoU threshold."""

    steps: Sequence[Steps]
    truths: NDArray[np.float64]  # [I]

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """AP, AP50 and AP75 as [D], when image i counts `weights[i, d]` times; NaN in a draw without truth."""
        truths = self.truths @ weights
        levels = np.stack([_interpolate(*steps.counts(weights), truths) for steps in self.steps], axis=1)
        levels[truths == 0] = np.nan
        names = {"AP": None, "AP50": 0.50, "AP75": 0.75}
        return {name: levels[:, _rows(iou)].reshape(len(levels), -1).mean(axis=1) for name, iou in names.items()}


def ap_curve(matches: Matches) -> APCurve:
    """The compact form of a category's matches, of all sizes of box."""
    num_images = matches.truths.shape[1]
    steps = []
    for outcome in matches.outcome[0]:
        rows = outcome >= FALSE_POSITIVE
        is_hit = outcome[rows] == TRUE_POSITIVE
        at = np.cumsum(is_hit) - is_hit  # a false alarm belongs to the next hit
        steps.append(build_steps(at, is_hit, matches.image[rows], (int(is_hit.sum()), num_images)))
    return APCurve(steps, matches.truths[0].astype(float))


def _rows(iou: float | None) -> NDArray | slice:
    return slice(None) if iou is None else np.flatnonzero(np.isclose(IOUS, iou))


def _interpolate(hits: NDArray, alarms: NDArray, truths: NDArray) -> NDArray[np.float64]:
    """[K, D], [K, D] and [D] -> [D, 101]: the best precision at or beyond each level of recall, 0 beyond the last."""
    num_steps, num_draws = hits.shape
    levels = np.zeros((num_draws, len(RECALL_LEVELS)))
    if not num_steps:
        return levels
    precision = hits / (alarms + hits + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(hits, truths, out=np.zeros_like(hits), where=truths > 0)
    for draw in range(num_draws):
        at = np.searchsorted(recall[:, draw], RECALL_LEVELS, side="left")
        reached = at < num_steps
        levels[draw, reached] = best[at[reached], draw]
    return levels
