"""Calibration of box scores: do seven of ten boxes of score 0.7 match a ground truth box? (Guo et al. 2017)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.match import IGNORED, TRUE_POSITIVE
from util.metrics.matching import match_boxes
from util.metrics.tables import Detections, GroundTruth

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Detections by score, in equally wide bins over [0, 1]."""

    edges: NDArray[np.float64]  # [B + 1]
    count: NDArray[np.int64]  # [B]
    score: NDArray[np.float64]  # [B] mean, NaN in an empty bin
    share: NDArray[np.float64]  # [B] precision: true positives among the detections, NaN in an empty bin

    @property
    def error(self) -> float:
        """The expected calibration error (ECE): the mean over detections of |share - score| of their bin."""
        used = self.count > 0
        gaps = np.abs(self.share[used] - self.score[used])
        return float((gaps * self.count[used]).sum() / self.count.sum())

    @property
    def largest_gap(self) -> float:
        """The largest |share - score| of a bin (maximum calibration error)."""
        return float(np.nanmax(np.abs(self.share - self.score)))


def reliability(truth: GroundTruth, detections: Detections) -> Reliability | None:
    """Compute the precision of detections by score, matched within their class.

    None where that has no meaning: no ground truth box, no detection, or scores outside [0, 1].
    """
    detections = detections.on(truth.images)
    outcome = match_boxes(truth, detections).outcome
    rows = outcome != IGNORED
    order = np.lexsort((outcome[rows], detections.score[rows]))  # sums must not depend on the order of the rows
    score = detections.score[rows][order]
    is_true_positive = (outcome[rows] == TRUE_POSITIVE)[order]
    if truth.is_crowd.all() or not len(score) or score.min() < 0 or score.max() > 1:
        return None
    edges = np.linspace(0, 1, BINS + 1)
    which = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, BINS - 1)
    count = np.bincount(which, minlength=BINS)
    means = [
        np.divide(np.bincount(which, column, BINS), count, out=np.full(BINS, np.nan), where=count > 0)
        for column in (score, is_true_positive.astype(float))
    ]
    return Reliability(edges, count, *means)
