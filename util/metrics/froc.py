"""Free-response ROC: the share of boxes found, against false alarms per image (Bunch et al. 1978).

The mean over seven rates of false alarms is the score of the LUNA16 challenge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import Steps, build_steps
from util.metrics.coco.match import IGNORED, TRUE_POSITIVE
from util.metrics.matching import IOU_THRESHOLD, match_boxes
from util.metrics.tables import Detections, GroundTruth

FPPI_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class FrocCurve:
    """One step per score at which a box is found; detections of equal score are one step."""

    steps: Steps
    scores: NDArray[np.float64]  # [K] falling
    truths: NDArray[np.float64]  # [I] boxes to find

    # An image that counts 0 times was not evaluated. All others are in the denominator of false alarms, those
    # without a box and those without a detection too.

    def curve(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(false alarms per image, sensitivity), both [K, D]; NaN in a draw without truth."""
        hits, alarms = self.steps.counts(weights)
        truths = self.truths @ weights
        images = weights.sum(axis=0)
        sensitivity = np.divide(hits, truths, out=np.full_like(hits, np.nan), where=truths > 0)
        return alarms / images, sensitivity

    def values(self, weights: NDArray[np.float64], at: Sequence[float] = FPPI_RATES) -> dict[str, NDArray[np.float64]]:
        """Sensitivity as `froc@RATE` and the mean as `froc_mean`, each [D]; image i counts `weights[i, d]` times."""
        alarms, sensitivity = self.curve(weights)
        nothing = np.where(self.truths @ weights > 0, 0.0, np.nan)[None]
        padded = np.concatenate([nothing, sensitivity])
        # the curve rises: the best sensitivity within a rate is that of the last step within it
        table = np.stack([padded[(alarms <= rate).sum(axis=0), np.arange(alarms.shape[1])] for rate in at])
        values = {f"froc@{rate:g}": row for rate, row in zip(at, table, strict=True)}
        return values | {"froc_mean": table.mean(axis=0)}


def froc(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """Sensitivity at each rate of RATES as `froc@RATE`, and their mean; nothing where there is no box to find."""
    if not (~truth.is_crowd).any():
        return {}
    ones = np.ones((len(truth.images), 1))
    return {name: float(value[0]) for name, value in froc_curve(truth, found).values(ones).items()}


def froc_curve(truth: GroundTruth, found: Detections, iou: float = IOU_THRESHOLD) -> FrocCurve:
    """The curve of the evaluated images, those of `truth`; image i is the i-th of the rising ids."""
    found = found.on(truth.images)
    outcome = match_boxes(truth, found, iou).outcome
    rows = outcome != IGNORED
    is_hit = outcome[rows] == TRUE_POSITIVE
    scores = np.unique(found.score[rows][is_hit])[::-1]
    step = np.searchsorted(-scores, -found.score[rows], side="left")
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    image = np.searchsorted(ids, found.image_id[rows])
    truths = np.bincount(np.searchsorted(ids, truth.image_id[~truth.is_crowd]), minlength=len(ids)).astype(float)
    steps = build_steps(step, is_hit, image, (len(scores), len(ids)))
    return FrocCurve(steps, scores, truths)
