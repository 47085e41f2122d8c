"""The metrics of an evaluation: {all images, images with boxes} x {per class, class-agnostic}, and image level.

Boxes are matched once, on all images. A view of the images is a choice of how often each image counts, and so is a draw
of the bootstrap. To add a metric, write its function in a module of util.metrics and name it in one of three lists of
`MatchedTables`: `box_metrics`, `image_metrics` or `plain_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import PrefixedMetrics, WeightedMetrics, interval, point, resample
from util.metrics.calibration import reliability
from util.metrics.coco.ap import APCurve, ap_curve, category_metrics, match_categories, mean_over_categories
from util.metrics.coco.match import Matches
from util.metrics.confusion import confusion
from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, image_scores, threshold_metrics
from util.metrics.matching import as_one_class, deduplicate
from util.metrics.tables import Detections, GroundTruth

Metrics = dict[str, float | list[float]]  # a value, or its 95 % interval [low, high]
CLASS_AGNOSTIC = "agnostic"
DEDUPLICATED = "agnostic_once"
PER_CLASS = "per_class"
MEASURES = (CLASS_AGNOSTIC, DEDUPLICATED, PER_CLASS)
VIEWS = ("all", "tb_only")  # the images: all, or those with boxes


@dataclass(frozen=True)
class MatchedTables:
    """Ground truth and detections, matched once for all metrics.

    `threshold` is the operating point, None where there is none. `kinds` names the kind of each image by id, as
    `image_scores` uses it.
    """

    ground_truth: GroundTruth
    detections: Detections
    kinds: Mapping[int, str]
    threshold: float | None = None

    def at(self, threshold: float | None) -> MatchedTables:
        """The same tables at another operating point; what has been computed is kept, as none of it depends on that."""
        other = replace(self, threshold=threshold)
        other.__dict__.update({**self.__dict__, "threshold": threshold})
        return other

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The rising ids [I] of the evaluated images: the order of all weights."""
        return np.sort(np.array(self.ground_truth.images, dtype=np.int64))

    @cached_property
    def known(self) -> Detections:
        """Detections of a category that the ground truth lists; COCOeval ignores others too."""
        is_known = np.isin(self.detections.label, list(self.ground_truth.names))
        return self.detections if is_known.all() else self.detections.select(is_known)

    @cached_property
    def image_scores(self) -> ImageScores:
        """The image-level scores."""
        return image_scores(self.ground_truth, self.known, self.kinds)

    @cached_property
    def class_agnostic(self) -> tuple[GroundTruth, Detections]:
        """Ground truth and detections as one class."""
        return as_one_class(self.ground_truth), as_one_class(self.known)

    @cached_property
    def deduplicated(self) -> Detections:
        """Detections as one class, equal boxes of two classes once."""
        return deduplicate(self.class_agnostic[1])

    @property
    def shown(self) -> Detections:
        """Deduplicated detections of the evaluated images at the operating point; without one, all of them."""
        return self.deduplicated.on(self.ground_truth.images).above(
            -np.inf if self.threshold is None else self.threshold
        )

    @cached_property
    def matches(self) -> dict[str, dict[str, Matches]]:
        """COCO's matches of each category, by measure."""
        truth, detections = self.class_agnostic
        return {
            PER_CLASS: match_categories(self.ground_truth, self.known),
            CLASS_AGNOSTIC: match_categories(truth, detections),
            DEDUPLICATED: match_categories(truth, self.deduplicated),
        }

    @cached_property
    def box_metrics(self) -> list[tuple[str, WeightedMetrics]]:
        """Metrics of boxes, computed in every view and with intervals: the prefix of their keys, and the metrics."""
        if self.ground_truth.is_crowd.all():
            return []
        classes = {name: ap_curve(matches) for name, matches in self.matches[PER_CLASS].items()}
        return [
            (PER_CLASS, MeanAP(classes)),
            *((f"{PER_CLASS}/{name}", curve) for name, curve in classes.items()),
            *((key, ap_curve(next(iter(self.matches[key].values())))) for key in (CLASS_AGNOSTIC, DEDUPLICATED)),
            (PER_CLASS, froc_curve(self.ground_truth, self.known)),
            (CLASS_AGNOSTIC, froc_curve(self.class_agnostic[0], self.deduplicated)),
        ]

    @property
    def image_metrics(self) -> list[tuple[str, WeightedMetrics]]:
        """Image-level metrics, computed on all images and with intervals."""
        metrics: list[tuple[str, WeightedMetrics]] = [("image", self.image_scores)]
        if self.threshold is not None:
            metrics.append(("image", threshold_metrics(self.image_scores, self.deduplicated, self.threshold)))
        return metrics

    @property
    def plain_metrics(self) -> list[tuple[str, Mapping[str, float]]]:
        """Metrics of all images without intervals."""
        metrics: list[tuple[str, Mapping[str, float]]] = []
        if table := reliability(self.ground_truth, self.known):
            metrics.append(("all/calibration", {"error": table.error, "largest_gap": table.largest_gap}))
        if self.threshold is not None:
            metrics.append(("operating_point", {"threshold": self.threshold}))
            counts = confusion(self.ground_truth, self.known, self.threshold)
            metrics += [(f"all/confusion/{true}", row) for true, row in counts.items()]
        return metrics

    def view(self, name: str) -> tuple[NDArray[np.bool_], PrefixedMetrics]:
        """The mask [I] of the images of a view, and the metrics that have a meaning there."""
        if name == "all":
            return np.ones(len(self.ids), dtype=bool), self.box_metrics + self.image_metrics
        return np.isin(self.ids, self.ground_truth.image_id[~self.ground_truth.is_crowd]), self.box_metrics


@dataclass(frozen=True)
class MeanAP:
    """The mean over the categories that have ground truth, draw by draw."""

    categories: Mapping[str, APCurve]

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """AP, AP50 and AP75 as [D]."""
        each = [category.values(weights) for category in self.categories.values()]
        return {key: _mean(np.stack([values[key] for values in each])) for key in each[0]}


def compute_metrics(tables: MatchedTables, *, draws: int, seed: int) -> Metrics:
    """Compute all metrics under flat keys; one without ground truth is absent. docs/evaluation.md defines them.

    {all,tb_only}/per_class/AP is the mean over categories, .../per_class/NAME/AP one category, .../agnostic/AP
    class-agnostic, and .../agnostic_once/AP class-agnostic with equal boxes of two classes counted once; likewise for
    each of util.metrics.coco.ap.METRICS. froc@RATE and froc_mean are there per_class and agnostic (equal boxes of two
    classes counted once). all/image/... are image-level metrics.

    Args:
        tables: of the evaluated images.
        draws: of the bootstrap; each metric that has an interval gets it as KEY/ci95.
        seed: of the draws.
    """
    values: Metrics = {}
    for view in VIEWS:
        images, metrics = tables.view(view)
        for measure in MEASURES:
            values |= _prefixed(f"{view}/{measure}", _coco(tables.matches[measure], images, measure))
        values = _prefixed(view, point(metrics, images)) | values  # of two means over classes COCO's own is kept
        if draws:
            for key, drawn in resample(metrics, images, draws, seed).items():
                name = f"{view}/{key}"
                ends = interval(drawn)
                if ends and name in values:
                    values[f"{name}/ci95"] = list(ends)
    for prefix, plain in tables.plain_metrics:
        values |= _prefixed(prefix, plain)
    return values


def images_with_boxes(truth: GroundTruth) -> GroundTruth:
    """Restrict the ground truth to images with a box that is no crowd."""
    return truth.on(truth.image_id[~truth.is_crowd].tolist())


def _coco(matches: Mapping[str, Matches], images: NDArray[np.bool_], measure: str) -> dict[str, float]:
    """COCO's metrics on some images: the means, and per class those of each category as NAME/METRIC."""
    categories = {name: category_metrics(m.on(images)) for name, m in matches.items()}
    means = mean_over_categories(categories.values())
    if measure != PER_CLASS:
        return means
    return means | {f"{name}/{key}": v for name, values in categories.items() for key, v in values.items()}


def _prefixed(prefix: str, values: Mapping[str, float]) -> Metrics:
    return {f"{prefix}/{key}": float(value) for key, value in values.items()}


def _mean(values: NDArray) -> NDArray[np.float64]:
    """[C, D] -> [D]: the mean over what is defined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
