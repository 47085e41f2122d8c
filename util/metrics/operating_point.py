"""The score from which on a box is shown: chosen once on validation images, used everywhere else."""

from __future__ import annotations

from typing import Literal

import numpy as np

from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, roc
from util.metrics.matching import as_one_class, deduplicate
from util.metrics.tables import Detections, GroundTruth

Rule = Literal["sensitivity", "false_alarms", "youden"]


def choose_threshold(
    truth: GroundTruth, found: Detections, images: ImageScores, rule: Rule, target: float
) -> float | None:
    """The threshold that a rule chooses, a score that occurs; None where the rule cannot be met or has no meaning.

    sensitivity: the highest threshold at which at least the share `target` of the positive images has a detection.
    false_alarms: the lowest score of a hit at which false alarms per image, classes taken as one, stay within `target`.
    youden: the highest sum of image-level sensitivity and specificity; among equals the highest threshold.
    """
    if rule == "sensitivity":
        return _by_sensitivity(images, target)
    if rule == "false_alarms":
        return _by_false_alarms(truth, found, target)
    return _by_youden(images)


def _by_sensitivity(images: ImageScores, target: float) -> float | None:
    scores = np.sort(images.score[images.is_positive])[::-1]
    if not len(scores):
        return None
    threshold = scores[max(1, int(np.ceil(target * len(scores) - 1e-9))) - 1]
    return float(threshold) if np.isfinite(threshold) else None


def _by_false_alarms(truth: GroundTruth, found: Detections, target: float) -> float | None:
    curve = froc_curve(as_one_class(truth), deduplicate(as_one_class(found)))
    alarms, _ = curve.curve(np.ones((len(truth.images), 1)))
    within = int((alarms[:, 0] <= target).sum())
    return float(curve.scores[within - 1]) if within else None


def _by_youden(images: ImageScores) -> float | None:
    if not images.has_both:
        return None
    false_positives, sensitivity, scores = roc(images)
    index = (sensitivity - false_positives).round(12)  # equal sums shall be equal
    index[~np.isfinite(scores)] = 0.0
    best = int(index.argmax())
    return float(scores[best]) if index[best] > 0 else None
