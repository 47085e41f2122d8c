"""The operating point: the score threshold of shown boxes, chosen on validation images and used everywhere else."""

from __future__ import annotations

from typing import Literal

import numpy as np

from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, roc
from util.metrics.matching import as_one_class, deduplicate
from util.metrics.tables import Detections, GroundTruth

Rule = Literal["sensitivity", "false_alarms", "youden"]


def choose_threshold(
    truth: GroundTruth, detections: Detections, images: ImageScores, rule: Rule, target: float
) -> float | None:
    """Choose the score threshold by a rule, one of the scores that occur; None where the rule cannot be met.

    sensitivity: the highest threshold at which at least the share `target` of the positive images has a detection.
    false_alarms: the lowest score of a true positive at which the class-agnostic FPPI stays within `target`.
    youden: the highest sum of image-level sensitivity and specificity; among equals the highest threshold.
    """
    if rule == "sensitivity":
        return _by_sensitivity(images, target)
    if rule == "false_alarms":
        return _by_false_positives(truth, detections, target)
    return _by_youden(images)


def _by_sensitivity(images: ImageScores, target: float) -> float | None:
    scores = np.sort(images.score[images.is_positive])[::-1]
    if not len(scores):
        return None
    threshold = scores[max(1, int(np.ceil(target * len(scores) - 1e-9))) - 1]
    return float(threshold) if np.isfinite(threshold) else None


def _by_false_positives(truth: GroundTruth, detections: Detections, target: float) -> float | None:
    curve = froc_curve(as_one_class(truth), deduplicate(as_one_class(detections)))
    fppi, _ = curve.points(np.ones((len(truth.images), 1)))
    within = int((fppi[:, 0] <= target).sum())
    return float(curve.scores[within - 1]) if within else None


def _by_youden(images: ImageScores) -> float | None:
    if not images.has_both:
        return None
    false_positive_rate, sensitivity, scores = roc(images)
    index = (sensitivity - false_positive_rate).round(12)  # equal sums shall be equal
    index[~np.isfinite(scores)] = 0.0
    best = int(index.argmax())
    return float(scores[best]) if index[best] > 0 else None
