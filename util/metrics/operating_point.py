"""The operating point: the score threshold of shown boxes, chosen on validation images and used everywhere else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, roc
from util.metrics.matching import as_one_class, deduplicate
from util.metrics.tables import Detections, GroundTruth

# How far the threshold lies below the score that decides it, at most: scores of the same weights differ by about 1e-8
# between numbers of threads, and no image may leave the operating point by that.
MARGIN = 5e-7

Rule = Literal["sensitivity", "false_alarms", "youden"]


def choose_threshold(
    truth: GroundTruth, detections: Detections, images: ImageScores, rule: Rule, target: float
) -> float | None:
    """Choose the score threshold by a rule, just below a score that occurs; None where the rule cannot be met.

    sensitivity: the highest threshold at which at least the share `target` of the positive images has a detection.
    false_alarms: the lowest score of a true positive at which the class-agnostic FPPI stays within `target`.
    youden: the highest sum of image-level sensitivity and specificity; among equals the highest threshold.
    """
    if rule == "sensitivity":
        score = _by_sensitivity(images, target)
    elif rule == "false_alarms":
        score = _by_false_positives(truth, detections, target)
    else:
        score = _by_youden(images)
    return None if score is None else _just_below(score, detections.score)


def _just_below(score: float, scores: NDArray[np.float64]) -> float:
    """A threshold that the same detections reach as `score`, with a margin on both sides."""
    lower = scores[scores < score]
    return max(0.0, score - min(MARGIN, (score - lower.max()) / 2 if len(lower) else MARGIN))


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
