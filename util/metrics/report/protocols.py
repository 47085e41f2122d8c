"""What is reported after an evaluation: {all images, images with boxes} x {per class, classes taken as one}.

Boxes are matched once, on all images. A view of the images is a choice of how often each image counts, and so is a draw
of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from util.metrics.bootstrap import Difference, WeightedMetrics, difference, interval, point, resample
from util.metrics.calibration import reliability
from util.metrics.coco.ap import APCurve, ap_curve, category_metrics, match_categories, mean_over_categories
from util.metrics.coco.match import Matches
from util.metrics.confusion import confusion
from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, image_scores, threshold_metrics
from util.metrics.matching import as_one_class, deduplicate, select_rows
from util.metrics.tables import Detections, GroundTruth

Metrics = dict[str, float | list[float]]
CLASS_AGNOSTIC = "agnostic"
DEDUPLICATED = "agnostic_once"
PER_CLASS = "per_class"


@dataclass(frozen=True)
class MatchedTables:
    """Truth and detections, matched; every figure comes from here.

    `threshold` is the operating point, None where there is none. `kinds` says what kind of image an image is.
    """

    ground_truth: GroundTruth
    detections: Detections
    kinds: Mapping[int, str]
    threshold: float | None = None

    def at(self, threshold: float | None) -> MatchedTables:
        """The same study at an operating point; what was worked out without one is kept."""
        other = replace(self, threshold=threshold)
        kept = ("ids", "known", "image_scores", "class_agnostic", "deduplicated", "matches", "curves")
        other.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return other

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """[I] the rising ids of the evaluated images: the order of all weights."""
        return np.sort(np.array(self.ground_truth.images, dtype=np.int64))

    @cached_property
    def known(self) -> Detections:
        """Detections of a category that the truth lists; COCOeval does not see others either."""
        is_known = np.isin(self.detections.label, list(self.ground_truth.names))
        return self.detections if is_known.all() else select_rows(self.detections, np.flatnonzero(is_known))

    @cached_property
    def image_scores(self) -> ImageScores:
        """The images as wholes."""
        return image_scores(self.ground_truth, self.known, self.kinds)

    @cached_property
    def class_agnostic(self) -> tuple[GroundTruth, Detections]:
        """Truth and detections as one class."""
        return as_one_class(self.ground_truth), as_one_class(self.known)

    @cached_property
    def deduplicated(self) -> Detections:
        """Detections as one class, a box under two classes once."""
        return deduplicate(self.class_agnostic[1])

    @cached_property
    def matches(self) -> dict[str, dict[str, Matches]]:
        """COCO's matches of each category by measure."""
        truth, found = self.class_agnostic
        return {
            PER_CLASS: match_categories(self.ground_truth, self.known),
            CLASS_AGNOSTIC: match_categories(truth, found),
            DEDUPLICATED: match_categories(truth, self.deduplicated),
        }

    @cached_property
    def curves(self) -> list[tuple[str, WeightedMetrics]]:
        """What can be resampled in every view, with the prefix of its keys."""
        if self.ground_truth.is_crowd.all():
            return []
        classes = {name: ap_curve(matches) for name, matches in self.matches[PER_CLASS].items()}
        one, one_once = (
            ap_curve(next(iter(self.matches[measure].values()))) for measure in (CLASS_AGNOSTIC, DEDUPLICATED)
        )
        return [
            (PER_CLASS, MeanCurve(classes)),
            *((f"{PER_CLASS}/{name}", curve) for name, curve in classes.items()),
            (CLASS_AGNOSTIC, one),
            (DEDUPLICATED, one_once),
            (PER_CLASS, froc_curve(self.ground_truth, self.known)),
            (CLASS_AGNOSTIC, froc_curve(self.class_agnostic[0], self.deduplicated)),
        ]

    @cached_property
    def image_curves(self) -> list[tuple[str, WeightedMetrics]]:
        """The same of figures about whole images."""
        curves: list[tuple[str, WeightedMetrics]] = [("image", self.image_scores)]
        if self.threshold is not None:
            curves.append(("image", threshold_metrics(self.image_scores, self.deduplicated, self.threshold)))
        return curves

    def view(self, name: str) -> tuple[NDArray[np.bool_], list[tuple[str, WeightedMetrics]]]:
        """The images [I] of a view, and the curves that have a meaning there."""
        if name == "all":
            return np.ones(len(self.ids), dtype=bool), self.curves + self.image_curves
        return np.isin(self.ids, self.ground_truth.image_id[~self.ground_truth.is_crowd]), self.curves


@dataclass(frozen=True)
class MeanCurve:
    """The mean over the categories that have truth, draw by draw."""

    parts: Mapping[str, APCurve]

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """AP, AP50 and AP75 as [D]."""
        each = [part.values(weights) for part in self.parts.values()]
        return {key: _mean(np.stack([values[key] for values in each])) for key in each[0]}


VIEWS = ("all", "tb_only")
MEASURES = (CLASS_AGNOSTIC, DEDUPLICATED, PER_CLASS)


def report(
    truth: GroundTruth,
    found: Detections,
    *,
    kinds: Mapping[int, str] | None = None,
    threshold: float | None = None,
    draws: int = 0,
    seed: int = 0,
) -> Metrics:
    """Every figure under a flat key; a figure without truth is absent. docs/evaluation.md defines them.

    {all,tb_only}/per_class/AP is the mean over categories, .../per_class/NAME/AP one category, .../agnostic/AP with
    every box of one class, and .../agnostic_once/AP the same with a box under two classes counted once; likewise for
    each of util.metrics.coco.ap.FIGURES. froc@RATE and froc_mean are there per_class and agnostic (a box under two
    classes counted once). all/image/... are of whole images.

    Args:
        truth: of the evaluated images.
        found: their detections, and perhaps others, which are left out.
        kinds: what kind of image by id, as far as known, such as "healthy".
        threshold: the operating point; None: figures that need one are absent.
        draws: of the bootstrap; each figure that has one gets its interval as KEY/ci95.
        seed: of the draws.
    """
    return compute_metrics(MatchedTables(truth, found, kinds or {}, threshold), draws=draws, seed=seed)


def compute_metrics(study: MatchedTables, *, draws: int = 0, seed: int = 0) -> Metrics:
    """The same of a study."""
    values: Metrics = {}
    for view in VIEWS:
        images, curves = study.view(view)
        for measure in MEASURES:
            values |= _prefixed(f"{view}/{measure}", _coco(study.matches[measure], images, measure))
        values = _prefixed(view, point(curves, images)) | values  # COCO's own mean is the one to keep
        if draws:
            for key, drawn in resample(curves, images, draws, seed).items():
                name = f"{view}/{key}"
                ends = interval(drawn)
                if ends and name in values:
                    values[f"{name}/ci95"] = list(ends)
    return values | _at_threshold(study)


def images_with_boxes(truth: GroundTruth) -> GroundTruth:
    """Only images with a box that is no crowd, the 'Only TB' rows of the TBX11K benchmark."""
    return truth.on(truth.image_id[~truth.is_crowd].tolist())


def compare(a: MatchedTables, b: MatchedTables, draws: int, seed: int) -> dict[str, Difference]:
    """What run B has more than run A in each figure that can be resampled, both on the same images.

    Raises:
        ValueError: the two were not evaluated on the same images.
    """
    if a.ids.tolist() != b.ids.tolist():
        raise ValueError("two runs can be compared on the same images only")
    found: dict[str, Difference] = {}
    for view in VIEWS:
        images, curves = a.view(view)
        _, others = b.view(view)
        before = point(curves, images)
        after = point(others, images)
        drawn, drawn_after = (resample(c, images, draws, seed) for c in (curves, others))
        for key in (key for key in before if key in after):
            gap = difference(drawn[key], drawn_after[key], after[key] - before[key])
            if gap is not None:
                found[f"{view}/{key}"] = gap
    return found


def _coco(matches: Mapping[str, Matches], images: NDArray[np.bool_], measure: str) -> dict[str, float]:
    """COCO's figures on some images: the means, and per class those of each category as NAME/FIGURE."""
    categories = {name: category_metrics(m.on(images)) for name, m in matches.items()}
    means = mean_over_categories(categories.values())
    if measure != PER_CLASS:
        return means
    return means | {f"{name}/{key}": v for name, values in categories.items() for key, v in values.items()}


def _at_threshold(study: MatchedTables) -> Metrics:
    """Counts and reliability on all images."""
    values: Metrics = {}
    reliable = reliability(study.ground_truth, study.known)
    if reliable is not None:
        values |= {"all/calibration/error": reliable.error, "all/calibration/largest_gap": reliable.largest_gap}
    if study.threshold is None:
        return values
    values["operating_point/threshold"] = study.threshold
    for true, row in confusion(study.ground_truth, study.known, study.threshold).items():
        values |= {f"all/confusion/{true}/{said}": float(count) for said, count in row.items()}
    return values


def _prefixed(prefix: str, values: Mapping[str, float]) -> Metrics:
    return {f"{prefix}/{key}": value for key, value in values.items()}


def _mean(values: NDArray) -> NDArray[np.float64]:
    """[C, D] -> [D]: the mean over what is defined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
