"""Bootstrap over images (Efron 1979): confidence intervals of metrics, and of paired differences of two runs.

A draw takes as many images as there are, with replacement. Boxes of one image stay together, as they must: they are
not independent. Draws depend on the seed and the number of images alone, so two runs on the same images share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

AT_A_TIME = 100  # draws; bounds the memory
PERCENTILES = (2.5, 97.5)  # percent


class WeightedMetrics(Protocol):
    """Metrics as functions of how often each image counts."""

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metrics [D] by name, for D draws of weights [I, D]."""
        ...


PrefixedMetrics = Sequence[tuple[str, WeightedMetrics]]  # with the prefix of their keys


@dataclass(frozen=True)
class Difference:
    """One metric of run B minus that of run A, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float  # two-sided


def point(metrics: PrefixedMetrics, images: NDArray[np.bool_]) -> dict[str, float]:
    """Compute every metric with each of the `images` [I] once; what is undefined is absent."""
    values = _values(metrics, images[:, None].astype(float))
    return {key: float(value[0]) for key, value in values.items() if np.isfinite(value[0])}


def resample(
    metrics: PrefixedMetrics, images: NDArray[np.bool_], draws: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Compute every metric [draws] in draws from the `images` [I]; NaN where it is undefined."""
    rng = np.random.default_rng(seed)
    sizes = [min(AT_A_TIME, draws - begin) for begin in range(0, draws, AT_A_TIME)] if images.any() else []
    parts = [_values(metrics, draw_weights(images, size, rng)) for size in sizes]
    return {key: np.concatenate([part[key] for part in parts]) for key in (parts[0] if parts else ())}


def interval(draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95 % of the draws in which the metric is defined; None where it never is."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, PERCENTILES)
    return float(low), float(high)


def difference(a: NDArray[np.float64], b: NDArray[np.float64], value: float) -> Difference | None:
    """Compare two runs draw by draw; `value` is the difference on the images themselves.

    p is twice the smaller share of draws on one side of zero, draws at zero counting for both, and one draw added to
    both shares, so that it is never 0: with 1000 draws the smallest p is 0.002.
    """
    gaps = b - a
    ends = interval(gaps)
    if ends is None:
        return None
    gaps = gaps[np.isfinite(gaps)]
    tail = 1 + min((gaps <= 0).sum(), (gaps >= 0).sum())
    return Difference(value, *ends, p=float(min(1.0, 2 * tail / (len(gaps) + 1))))


def draw_weights(images: NDArray[np.bool_], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw weights [I, D]: how often each image is drawn; those not among `images` never."""
    num = int(images.sum())
    weights = np.zeros((len(images), draws))
    for draw in range(draws):
        weights[images, draw] = np.bincount(rng.integers(0, num, num), minlength=num)
    return weights


def _values(metrics: PrefixedMetrics, weights: NDArray) -> dict[str, NDArray[np.float64]]:
    return {f"{prefix}/{key}": v for prefix, metric in metrics for key, v in metric.values(weights).items()}


@dataclass(frozen=True)
class Steps:
    """True and false positives by falling score, as K steps over I images: one per score of a true positive."""

    true_positives: csr_array  # [K, I] of each step
    false_positives: csr_array  # [K, I] between the step before and this one

    def counts(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True and false positives up to each step, both [K, D]; image i counts `weights[i, d]` times in draw d."""
        return np.cumsum(self.true_positives @ weights, axis=0), np.cumsum(self.false_positives @ weights, axis=0)


def build_steps(
    step: NDArray[np.int64], is_true_positive: NDArray[np.bool_], image: NDArray[np.int64], shape: tuple[int, int]
) -> Steps:
    """Build steps of `shape` (K, I) from detections [N]: the step at which each counts, and its image's position.

    Detections of step K, those after the last true positive, change nothing and are left out.
    """
    counts = step < shape[0]
    parts = [
        csr_array((np.ones(rows.sum()), (step[rows], image[rows])), shape=shape)  # repeated cells are summed
        for rows in (is_true_positive & counts, ~is_true_positive & counts)
    ]
    return Steps(*parts)
