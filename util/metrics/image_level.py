"""Image-level metrics: the score of an image is the highest score of any of its boxes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.tables import Detections, GroundTruth

POSITIVE = "tb"  # the group of the positive images, as the files of an evaluation name it
UNKNOWN = "unknown"
HIGH_SENSITIVITY = 0.9


@dataclass(frozen=True)
class ImageScores:
    """One row per evaluated image, by rising id."""

    ids: NDArray[np.int64]  # [I]
    score: NDArray[np.float64]  # [I] the highest of its detections, -infinity without any
    is_positive: NDArray[np.bool_]  # [I]
    group: NDArray[np.str_]  # [I] POSITIVE, or the kind of a negative image, such as "healthy", or UNKNOWN

    @property
    def is_negative(self) -> NDArray[np.bool_]:
        """Mask [I] of the images that are neither positive nor of an unknown kind."""
        return ~self.is_positive & (self.group != UNKNOWN)

    @property
    def has_both(self) -> bool:
        """Whether there are both positive and negative images."""
        return bool(self.is_positive.any() and self.is_negative.any())

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """`auc`, `auc_GROUP` (positives against one group) and `partial_auc`, each [D]; NaN in a draw without either.

        Image i counts `weights[i, d]` times in draw d.
        """
        positive = weights * self.is_positive[:, None]
        negative = weights * self.is_negative[:, None]
        values = {"auc": auc(self.score, positive, negative)}
        values["partial_auc"] = partial_auc(self.score, positive, negative)
        for group in negative_groups(self):
            values[f"auc_{group}"] = auc(self.score, positive, weights * (self.group == group)[:, None])
        return values


def image_scores(truth: GroundTruth, detections: Detections, kinds: Mapping[int, str]) -> ImageScores:
    """Score and classify the evaluated images, those of `truth`.

    Args:
        truth: an image with a box that is no crowd is positive.
        detections: of any class.
        kinds: the kind of each image by id, where it is known. Without a box, images of kind POSITIVE are positive,
            those of kind UNKNOWN neither positive nor negative, and all others negative.
    """
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    score = np.full(len(ids), -np.inf)
    detections = detections.on(truth.images)
    np.maximum.at(score, np.searchsorted(ids, detections.image_id), detections.score)
    has_box = np.isin(ids, truth.image_id[~truth.is_crowd])
    group = np.array([kinds.get(i, "no_box") for i in ids.tolist()], dtype=np.str_)
    is_positive = has_box | (group == POSITIVE)
    return ImageScores(ids, score, is_positive, np.where(is_positive, POSITIVE, group))


def negative_groups(images: ImageScores) -> list[str]:
    """The kinds of negative images, where there is more than one."""
    groups = np.unique(images.group[images.is_negative]).tolist()
    return groups if len(groups) > 1 else []


def auc(score: NDArray, positive: NDArray, negative: NDArray) -> NDArray[np.float64]:
    """Area under the ROC curve [D]: how often a positive image scores higher than a negative one; ties count half.

    Args:
        score: [I].
        positive: [I, D] how often image i counts as a positive in draw d.
        negative: [I, D] the same as a negative.
    """
    true_positives = _tally(score, positive)
    false_positives = _tally(score, negative)
    steps = np.diff(true_positives, axis=0)
    wins = (steps * (false_positives[-1] - (false_positives[1:] + false_positives[:-1]) / 2)).sum(axis=0)
    pairs = true_positives[-1] * false_positives[-1]
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def partial_auc(score: NDArray, positive: NDArray, negative: NDArray) -> NDArray[np.float64]:
    """Mean specificity [D] over sensitivities from HIGH_SENSITIVITY to 1, the ROC curve being interpolated linearly."""
    true_positives = _tally(score, positive)
    false_positives = _tally(score, negative)
    values = np.full(true_positives.shape[1], np.nan)
    for draw in np.flatnonzero((true_positives[-1] > 0) & (false_positives[-1] > 0)):
        x = false_positives[:, draw] / false_positives[-1, draw]
        y = true_positives[:, draw] / true_positives[-1, draw]
        last = int(np.searchsorted(y, HIGH_SENSITIVITY, side="left"))  # the first point at or above
        if y[last] > HIGH_SENSITIVITY:
            share = (HIGH_SENSITIVITY - y[last - 1]) / (y[last] - y[last - 1])
            x = np.concatenate([[x[last - 1] + share * (x[last] - x[last - 1])], x[last:]])
            y = np.concatenate([[HIGH_SENSITIVITY], y[last:]])
        else:
            x = x[last:]
            y = y[last:]
        values[draw] = (np.diff(y) * (1 - (x[1:] + x[:-1]) / 2)).sum() / (1 - HIGH_SENSITIVITY)
    return values


def roc(images: ImageScores) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """ROC curve: (false positive rate, sensitivity, threshold) [K + 1] by falling threshold, infinity first.

    Raises:
        ValueError: when there is no positive or no negative image.
    """
    if not images.has_both:
        raise ValueError("a ROC curve needs positive and negative images")
    positive, negative = (mask[:, None].astype(float) for mask in (images.is_positive, images.is_negative))
    true_positives = _tally(images.score, positive)
    false_positives = _tally(images.score, negative)
    levels = np.concatenate([[np.inf], np.unique(images.score)[::-1]])
    return false_positives[:, 0] / false_positives[-1, 0], true_positives[:, 0] / true_positives[-1, 0], levels


def _tally(score: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Cumulated weight [K + 1, D] of the images at or above each score, by falling score; the first is 0."""
    order = np.argsort(-score, kind="stable")
    totals = np.cumsum(weights[order], axis=0)
    is_last = np.concatenate([score[order][1:] != score[order][:-1], [True]]) if len(score) else np.zeros(0, bool)
    return np.concatenate([np.zeros((1, weights.shape[1])), totals[is_last]])


@dataclass(frozen=True)
class ThresholdMetrics:
    """Image-level metrics at one score threshold."""

    images: ImageScores
    threshold: float
    detections: NDArray[np.float64]  # [I] number of boxes of at least the threshold, equal boxes of two classes once

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Sensitivity, specificity, and FPPI on negative images, of all and of each group; each [D].

        Every box on a negative image is a false positive.
        """
        is_called = self.images.score >= self.threshold
        values = {"sensitivity": _share(is_called, self.images.is_positive, weights)}
        negatives = {f"_{group}": self.images.group == group for group in negative_groups(self.images)}
        for suffix, is_negative in {"": self.images.is_negative, **negatives}.items():
            values[f"specificity{suffix}"] = _share(~is_called, is_negative, weights)
            values[f"false_alarms{suffix}"] = _share(self.detections, is_negative, weights)
        return values


def threshold_metrics(images: ImageScores, detections: Detections, threshold: float) -> ThresholdMetrics:
    """Count the detections of each image at a threshold; `detections` have one label, and no box twice."""
    strong = detections.on(images.ids.tolist()).above(threshold)
    counts = np.bincount(np.searchsorted(images.ids, strong.image_id), minlength=len(images.ids))
    return ThresholdMetrics(images, threshold, counts.astype(float))


def _share(values: NDArray, mask: NDArray[np.bool_], weights: NDArray) -> NDArray[np.float64]:
    """Weighted mean [D] of `values` [I] over the images of the mask."""
    total = mask @ weights
    return np.divide((values * mask) @ weights, total, out=np.full(len(total), np.nan), where=total > 0)
