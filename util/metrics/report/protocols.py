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

from util.metrics.bootstrap import Curve, Difference, difference, interval, point, resample
from util.metrics.calibration import reliability
from util.metrics.coco.ap import APCurve, ap_curve, figures, match_categories, mean_over_categories
from util.metrics.coco.match import Matches
from util.metrics.confusion import confusion
from util.metrics.froc import froc_curve
from util.metrics.image_level import ImageScores, alarms_at, image_scores
from util.metrics.matching import once, one_label, rows_of
from util.metrics.tables import Detections, GroundTruth

Figures = dict[str, float | list[float]]
AGNOSTIC = "agnostic"
ONCE = "agnostic_once"
PER_CLASS = "per_class"


@dataclass(frozen=True)
class Study:
    """Truth and detections, matched; every figure comes from here.

    `threshold` is the operating point, None where there is none. `kinds` says what kind of image an image is.
    """

    truth: GroundTruth
    found: Detections
    kinds: Mapping[int, str]
    threshold: float | None = None

    def at(self, threshold: float | None) -> Study:
        """The same study at an operating point; what was worked out without one is kept."""
        other = replace(self, threshold=threshold)
        kept = ("ids", "known", "images", "one", "one_once", "matches", "curves")
        other.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return other

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """[I] the rising ids of the evaluated images: the order of all weights."""
        return np.sort(np.array(self.truth.images, dtype=np.int64))

    @cached_property
    def known(self) -> Detections:
        """Detections of a category that the truth lists; COCOeval does not see others either."""
        is_known = np.isin(self.found.label, list(self.truth.names))
        return self.found if is_known.all() else rows_of(self.found, np.flatnonzero(is_known))

    @cached_property
    def images(self) -> ImageScores:
        """The images as wholes."""
        return image_scores(self.truth, self.known, self.kinds)

    @cached_property
    def one(self) -> tuple[GroundTruth, Detections]:
        """Truth and detections as one class."""
        return one_label(self.truth), one_label(self.known)

    @cached_property
    def one_once(self) -> Detections:
        """Detections as one class, a box under two classes once."""
        return once(self.one[1])

    @cached_property
    def matches(self) -> dict[str, dict[str, Matches]]:
        """COCO's matches of each category by measure."""
        truth, found = self.one
        return {
            PER_CLASS: match_categories(self.truth, self.known),
            AGNOSTIC: match_categories(truth, found),
            ONCE: match_categories(truth, self.one_once),
        }

    @cached_property
    def curves(self) -> list[tuple[str, Curve]]:
        """What can be resampled in every view, with the prefix of its keys."""
        if self.truth.is_crowd.all():
            return []
        classes = {name: ap_curve(matches) for name, matches in self.matches[PER_CLASS].items()}
        one, one_once = (ap_curve(next(iter(self.matches[measure].values()))) for measure in (AGNOSTIC, ONCE))
        return [
            (PER_CLASS, MeanCurve(classes)),
            *((f"{PER_CLASS}/{name}", curve) for name, curve in classes.items()),
            (AGNOSTIC, one),
            (ONCE, one_once),
            (PER_CLASS, froc_curve(self.truth, self.known)),
            (AGNOSTIC, froc_curve(self.one[0], self.one_once)),
        ]

    @cached_property
    def image_curves(self) -> list[tuple[str, Curve]]:
        """The same of figures about whole images."""
        curves: list[tuple[str, Curve]] = [("image", self.images)]
        if self.threshold is not None:
            curves.append(("image", alarms_at(self.images, self.one_once, self.threshold)))
        return curves

    def view(self, name: str) -> tuple[NDArray[np.bool_], list[tuple[str, Curve]]]:
        """The images [I] of a view, and the curves that have a meaning there."""
        if name == "all":
            return np.ones(len(self.ids), dtype=bool), self.curves + self.image_curves
        return np.isin(self.ids, self.truth.image_id[~self.truth.is_crowd]), self.curves


@dataclass(frozen=True)
class MeanCurve:
    """The mean over the categories that have truth, draw by draw."""

    parts: Mapping[str, APCurve]

    def values(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """AP, AP50 and AP75 as [D]."""
        each = [part.values(weights) for part in self.parts.values()]
        return {key: _mean(np.stack([values[key] for values in each])) for key in each[0]}


VIEWS = ("all", "tb_only")
MEASURES = (AGNOSTIC, ONCE, PER_CLASS)


def report_of(study: Study, *, draws: int, seed: int) -> Figures:
    """Every figure under a flat key; a figure without truth is absent. docs/evaluation.md defines them.

    {all,tb_only}/per_class/AP is the mean over categories, .../per_class/NAME/AP one category, .../agnostic/AP with
    every box of one class, and .../agnostic_once/AP the same with a box under two classes counted once; likewise for
    each of util.metrics.coco.ap.FIGURES. froc@RATE and froc_mean are there per_class and agnostic (a box under two
    classes counted once). all/image/... are of whole images.

    Args:
        study: of the evaluated images.
        draws: of the bootstrap; each figure that has one gets its interval as KEY/ci95.
        seed: of the draws.
    """
    values: Figures = {}
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


def compare(a: Study, b: Study, draws: int, seed: int) -> dict[str, Difference]:
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
    categories = {name: figures(m.on(images)) for name, m in matches.items()}
    means = mean_over_categories(categories.values())
    if measure != PER_CLASS:
        return means
    return means | {f"{name}/{key}": v for name, values in categories.items() for key, v in values.items()}


def _at_threshold(study: Study) -> Figures:
    """Counts and reliability on all images."""
    values: Figures = {}
    reliable = reliability(study.truth, study.known)
    if reliable is not None:
        values |= {"all/calibration/error": reliable.error, "all/calibration/largest_gap": reliable.largest_gap}
    if study.threshold is None:
        return values
    values["operating_point/threshold"] = study.threshold
    for true, row in confusion(study.truth, study.known, study.threshold).items():
        values |= {f"all/confusion/{true}/{said}": float(count) for said, count in row.items()}
    return values


def _prefixed(prefix: str, values: Mapping[str, float]) -> Figures:
    return {f"{prefix}/{key}": value for key, value in values.items()}


def _mean(values: NDArray) -> NDArray[np.float64]:
    """[C, D] -> [D]: the mean over what is defined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
