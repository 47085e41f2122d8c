"""Does a score of 0.7 mean that seven of ten such boxes are right? Reliability of box scores (Guo et al. 2017)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.match import IGNORED, TRUE_POSITIVE
from util.metrics.matching import IOU_THRESHOLD, match_boxes
from util.metrics.tables import Detections, GroundTruth

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Detections by score, in equally wide bins over [0, 1]."""

    edges: NDArray[np.float64]  # [B + 1]
    count: NDArray[np.int64]  # [B]
    score: NDArray[np.float64]  # [B] mean, NaN in an empty bin
    share: NDArray[np.float64]  # [B] of the detections that find a box, NaN in an empty bin

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over detections of |share - score| of their bin."""
        used = self.count > 0
        gaps = np.abs(self.share[used] - self.score[used])
        return float((gaps * self.count[used]).sum() / self.count.sum())

    @property
    def largest_gap(self) -> float:
        """The largest |share - score| of a bin."""
        return float(np.nanmax(np.abs(self.share - self.score)))


def reliability(
    truth: GroundTruth, found: Detections, bins: int = BINS, iou: float = IOU_THRESHOLD
) -> Reliability | None:
    """The share of detections that find a box of their class, by score.

    None where that has no meaning: no box to find, no detection, or scores outside [0, 1].
    """
    found = found.on(truth.images)
    outcome = match_boxes(truth, found, iou).outcome
    rows = outcome != IGNORED
    order = np.lexsort((outcome[rows], found.score[rows]))  # sums must not depend on the order of the rows
    score = found.score[rows][order]
    is_hit = (outcome[rows] == TRUE_POSITIVE)[order]
    if truth.is_crowd.all() or not len(score) or score.min() < 0 or score.max() > 1:
        return None
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    means = [
        np.divide(np.bincount(which, column, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for column in (score, is_hit.astype(float))
    ]
    return Reliability(edges, count, *means)
