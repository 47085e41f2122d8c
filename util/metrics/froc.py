"""Free-response ROC (FROC): sensitivity against false positives per image, FPPI (Bunch et al. 1978).

The mean over seven rates of false positives is the score of the LUNA16 challenge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import Steps, build_steps
from util.metrics.coco.match import IGNORED, TRUE_POSITIVE
from util.metrics.matching import match_boxes
from util.metrics.tables import Detections, GroundTruth

FPPI_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class FrocCurve:
    """One step per score of a true positive; detections of equal score are one step."""

    steps: Steps
    scores: NDArray[np.float64]  # [K] falling
    num_boxes: NDArray[np.float64]  # [I] ground truth boxes that are no crowd

    # An image of weight 0 was not evaluated. All others are in the denominator of the FPPI, those without a box and
    # those without a detection too.

    def points(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(FPPI, sensitivity), both [K, D]; NaN in a draw without ground truth."""
        true_positives, false_positives = self.steps.counts(weights)
        boxes = self.num_boxes @ weights
        images = weights.sum(axis=0)
        sensitivity = np.divide(true_positives, boxes, out=np.full_like(true_positives, np.nan), where=boxes > 0)
        return false_positives / images, sensitivity

    def values(self, weights: NDArray[np.float64], at: Sequence[float] = FPPI_RATES) -> dict[str, NDArray[np.float64]]:
        """Sensitivity as `froc@RATE` and the mean as `froc_mean`, each [D]; image i counts `weights[i, d]` times."""
        fppi, sensitivity = self.points(weights)
        nothing = np.where(self.num_boxes @ weights > 0, 0.0, np.nan)[None]
        padded = np.concatenate([nothing, sensitivity])
        # the curve rises: the best sensitivity within a rate is that of the last step within it
        table = np.stack([padded[(fppi <= rate).sum(axis=0), np.arange(fppi.shape[1])] for rate in at])
        values = {f"froc@{rate:g}": row for rate, row in zip(at, table, strict=True)}
        return values | {"froc_mean": table.mean(axis=0)}


def froc_curve(truth: GroundTruth, detections: Detections) -> FrocCurve:
    """Compute the curve of the images of `truth`; image i is the i-th of the rising ids."""
    detections = detections.on(truth.images)
    outcome = match_boxes(truth, detections).outcome
    counted = detections.select(outcome != IGNORED)
    is_true_positive = outcome[outcome != IGNORED] == TRUE_POSITIVE
    scores = np.unique(counted.score[is_true_positive])[::-1]
    step = np.searchsorted(-scores, -counted.score, side="left")
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    image = np.searchsorted(ids, counted.image_id)
    num_boxes = np.bincount(np.searchsorted(ids, truth.image_id[~truth.is_crowd]), minlength=len(ids)).astype(float)
    steps = build_steps(step, is_true_positive, image, (len(scores), len(ids)))
    return FrocCurve(steps, scores, num_boxes)
