"""Is there tuberculosis in the image? The answer of a detector is the highest score of any of its boxes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from util.metrics.tables import Detections, GroundTruth

POSITIVE = "tb"
UNKNOWN = "unknown"
HIGH_SENSITIVITY = 0.9


@dataclass(frozen=True)
class ImageScores:
    """One row per evaluated image, by rising id."""

    ids: NDArray[np.int64]  # [I]
    score: NDArray[np.float64]  # [I] the highest of its detections, -infinity without any
    is_positive: NDArray[np.bool_]  # [I]
    group: NDArray[np.str_]  # [I] "tb" where positive; else what kind of image, such as "healthy" or "unknown"

    @property
    def is_negative(self) -> NDArray[np.bool_]:
        """[I]: neither positive nor of an unknown kind."""
        return ~self.is_positive & (self.group != UNKNOWN)

    @property
    def has_both(self) -> bool:
        """Whether there are positive and negative images."""
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


def image_scores(truth: GroundTruth, found: Detections, kinds: Mapping[int, str]) -> ImageScores:
    """The evaluated images.

    Args:
        truth: positive is an image with a box that is no crowd.
        found: detections of any class.
        kinds: what kind of image by id, where that is known: "tb" is positive without a box too, and "unknown"
            is neither positive nor negative without one. Other images without a box are negative.
    """
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    score = np.full(len(ids), -np.inf)
    found = found.on(truth.images)
    np.maximum.at(score, np.searchsorted(ids, found.image_id), found.score)
    has_box = np.isin(ids, truth.image_id[~truth.is_crowd])
    group = np.array([kinds.get(i, "no_box") for i in ids.tolist()], dtype=np.str_)
    is_positive = has_box | (group == POSITIVE)
    return ImageScores(ids, score, is_positive, np.where(is_positive, POSITIVE, group))


def negative_groups(images: ImageScores) -> list[str]:
    """The kinds of images without tuberculosis, where there is more than one."""
    groups = np.unique(images.group[images.is_negative]).tolist()
    return groups if len(groups) > 1 else []


def auc(score: NDArray, positive: NDArray, negative: NDArray) -> NDArray[np.float64]:
    """[D]: the chance that a positive image scores higher than a negative one, equal scores counting one half.

    Args:
        score: [I].
        positive: [I, D] how often image i counts as a positive in draw d.
        negative: [I, D] the same as a negative.
    """
    hits = _tally(score, positive)
    alarms = _tally(score, negative)
    steps = np.diff(hits, axis=0)
    wins = (steps * (alarms[-1] - (alarms[1:] + alarms[:-1]) / 2)).sum(axis=0)
    pairs = hits[-1] * alarms[-1]
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def partial_auc(
    score: NDArray, positive: NDArray, negative: NDArray, sensitivity: float = HIGH_SENSITIVITY
) -> NDArray[np.float64]:
    """[D]: the mean specificity over the sensitivities from `sensitivity` to 1, on the ROC curve drawn with lines."""
    hits = _tally(score, positive)
    alarms = _tally(score, negative)
    values = np.full(hits.shape[1], np.nan)
    for draw in np.flatnonzero((hits[-1] > 0) & (alarms[-1] > 0)):
        x = alarms[:, draw] / alarms[-1, draw]
        y = hits[:, draw] / hits[-1, draw]
        last = int(np.searchsorted(y, sensitivity, side="left"))  # the first point at or above
        if y[last] > sensitivity:
            share = (sensitivity - y[last - 1]) / (y[last] - y[last - 1])
            x = np.concatenate([[x[last - 1] + share * (x[last] - x[last - 1])], x[last:]])
            y = np.concatenate([[sensitivity], y[last:]])
        else:
            x = x[last:]
            y = y[last:]
        values[draw] = (np.diff(y) * (1 - (x[1:] + x[:-1]) / 2)).sum() / (1 - sensitivity)
    return values


def roc(images: ImageScores) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(false positive rate, sensitivity, score) [K + 1] from the strictest threshold on; the first one calls nothing.

    Raises:
        ValueError: when there is no positive or no negative image.
    """
    if not images.has_both:
        raise ValueError("a ROC curve needs images with and without tuberculosis")
    positive, negative = (mask[:, None].astype(float) for mask in (images.is_positive, images.is_negative))
    hits = _tally(images.score, positive)
    alarms = _tally(images.score, negative)
    levels = np.concatenate([[np.inf], np.unique(images.score)[::-1]])
    return alarms[:, 0] / alarms[-1, 0], hits[:, 0] / hits[-1, 0], levels


def _tally(score: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """[K + 1, D]: the weight of the images at or above each score that occurs, from the highest on; 0 before it."""
    order = np.argsort(-score, kind="stable")
    totals = np.cumsum(weights[order], axis=0)
    is_last = np.concatenate([score[order][1:] != score[order][:-1], [True]]) if len(score) else np.zeros(0, bool)
    return np.concatenate([np.zeros((1, weights.shape[1])), totals[is_last]])


@dataclass(frozen=True)
class ThresholdMetrics:
    """The images at one threshold."""

    images: ImageScores
    threshold: float
    detections: NDArray[np.float64]  # [I] boxes of at least the threshold, the same box under two classes once

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Sensitivity, specificity, and false alarms per negative image, of all and of each group; each [D].

        Every box on a negative image is a false alarm.
        """
        is_called = self.images.score >= self.threshold
        values = {"sensitivity": _share(is_called, self.images.is_positive, weights)}
        values["specificity"] = _share(~is_called, self.images.is_negative, weights)
        values["false_alarms"] = _share(self.detections, self.images.is_negative, weights)
        for group in negative_groups(self.images):
            of_group = self.images.group == group
            values[f"specificity_{group}"] = _share(~is_called, of_group, weights)
            values[f"false_alarms_{group}"] = _share(self.detections, of_group, weights)
        return values


def threshold_metrics(images: ImageScores, found: Detections, threshold: float) -> ThresholdMetrics:
    """The images at a threshold; `found` are detections of one label, each box once."""
    rows = (found.score >= threshold) & np.isin(found.image_id, images.ids)
    counts = np.bincount(np.searchsorted(images.ids, found.image_id[rows]), minlength=len(images.ids))
    return ThresholdMetrics(images, threshold, counts.astype(float))


def _share(values: NDArray, mask: NDArray[np.bool_], weights: NDArray) -> NDArray[np.float64]:
    """[D]: the mean of `values` [I] over the images of the mask."""
    total = mask @ weights
    return np.divide((values * mask) @ weights, total, out=np.full(len(total), np.nan), where=total > 0)
