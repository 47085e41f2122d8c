"""Check the boxes of a split: their numbers, their form, and whether there are any to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import OVERHANG_TOLERANCE, Split
from datasets.checks.findings import Finding
from util.base.text import first_few

SAME_BOX_DECIMALS = 1  # pixels; two boxes that agree so far are one
FEWEST_IN_CORNER = 6  # boxes that are in one quarter of their images by mistake rather than by chance: (1/4)^6
Role = Literal["train", "val"]


def find_in_boxes(split: Split) -> Iterator[Finding]:
    """Boxes that cannot be right, by their numbers, size or form."""
    if _are_normalised(split):
        text = f"all {len(split.xywh)} boxes lie within [0, 1]: they are shares of the image, not pixels"
        yield Finding("normalised", f"{text}; multiply them by the width and height of their image")
        return
    yield from _unusable_boxes(split)
    yield from _small_boxes(split)
    yield from _repeated_boxes(split)


def find_usable(split: Split, role: Role) -> Iterator[Finding]:
    """Whether a list of training or validation has boxes to learn or to evaluate.

    Without any, training is refused; without any in validation there is no AP to choose the best checkpoint by.
    """
    crowd = int(split.is_crowd.sum())
    empty = int(split.num_empty.sum())
    is_training = role == "train"
    export = "CVAT exports masks so: export them as polygons or boxes, or set iscrowd to 0 where a region is one object"
    effect = "a detector learns from none of them" if is_training else "AP is undefined and no best.pth is chosen"
    if split.num_boxes:
        if crowd > split.num_boxes:
            text = f"{crowd} of {len(split.xywh)} boxes are iscrowd = 1, regions of many objects, and count neither way"
            yield Finding("mostly_crowd", f"{text}; {export}", "warning")
    elif crowd:
        text = f"all {crowd} boxes are iscrowd = 1, regions of many objects: {effect}; {export}"
        yield Finding("all_crowd", text, "error" if is_training else "warning")
    else:
        left = f" ({empty} without area were left out)" if empty else ""
        effect = "there is nothing to learn" if is_training else effect
        text = f"none of {split.num_images} images has a box{left}: {effect}; check that this is the right list"
        yield Finding("no_boxes", text, "error" if is_training else "warning")


def _are_normalised(split: Split) -> bool:
    return bool(len(split.xywh) and ((split.xywh >= 0) & (split.xywh <= 1)).all() and split.sizes.max() > 2)


def _unusable_boxes(split: Split) -> Iterator[Finding]:
    width, height = split.xywh[:, 2:].T
    is_finite = np.isfinite(split.xywh).all(axis=1) & np.isfinite(split.area)
    is_negative = is_finite & ((width < 0) | (height < 0))
    is_outside = is_finite & ~is_negative & (_overhang(split, split.xywh) > OVERHANG_TOLERANCE).any(axis=1)
    form = _other_form(split) if is_outside.any() else ""
    pixels = "boxes are [x, y, width, height] in pixels of the image as recorded"
    kinds = (
        ("not_finite", ~is_finite, "have numbers that are not finite", "correct or remove these annotations"),
        ("negative_box", is_negative, "have a negative width or height", f"{pixels}: correct these annotations"),
        (
            "overhang",
            is_outside,
            f"reach more than {OVERHANG_TOLERANCE:g} px beyond their image",
            f"{pixels}: {form or 'correct the boxes or the size'}",
        ),
    )
    for kind, is_bad, what, fix in kinds:
        if is_bad.any():
            text = f"{is_bad.sum()} of {len(is_bad)} boxes {what}: {_box_examples(split, is_bad)}; {fix}"
            yield Finding(kind, text)
    is_sound = is_finite & ~is_negative
    is_wrong = is_sound & ((split.area <= 0) | (split.area > 1 + 1.01 * width * height)) & ~split.is_crowd
    if is_wrong.any():
        text = f"{is_wrong.sum()} of {len(is_wrong)} boxes have an area that is 0 or more than width x height"
        fix = "AP by size uses the area: correct it, or leave it out"
        yield Finding("wrong_area", f"{text}: {_box_examples(split, is_wrong)}; {fix}", "warning")


def _overhang(split: Split, xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 4]: pixels by which boxes reach beyond each side of their image; negative inside."""
    corners = xywh[:, :2] + xywh[:, 2:]
    return np.concatenate([-xywh[:, :2], corners - split.sizes[split.image_of_box][:, ::-1]], axis=1)


def _other_form(split: Split) -> str:
    """The form in which all boxes would be inside their images, in words; empty where there is none."""
    first, second = np.split(split.xywh, 2, axis=1)
    forms = {
        "[x1, y1, x2, y2]": np.concatenate([first, second - first], axis=1),
        "[centre x, centre y, width, height]": np.concatenate([first - second / 2, second], axis=1),
    }
    for name, xywh in forms.items():
        if (xywh[:, 2:] > 0).all() and (_overhang(split, xywh) <= OVERHANG_TOLERANCE).all():
            return f"this looks like {name}, in which all {len(xywh)} would fit"
    return ""


def _small_boxes(split: Split) -> Iterator[Finding]:
    """Boxes without area, under a pixel, rotated, or all in one corner."""
    empty = int(split.num_empty.sum())
    if empty:
        files = [f"{split.file_names[i]} ({split.num_empty[i]})" for i in np.flatnonzero(split.num_empty)]
        text = f"{empty} of {empty + len(split.xywh)} boxes have no width or no height in their image"
        fix = "they are left out of training and evaluation: correct or remove these annotations"
        yield Finding("empty_box", f"{text}: on {first_few(files)}; {fix}", "warning")
    shorter = split.xywh[:, 2:].min(axis=1)
    is_small = (shorter > 0) & (shorter < 1)
    if is_small.any():
        text = f"{is_small.sum()} of {len(is_small)} boxes are smaller than a pixel: {_box_examples(split, is_small)}"
        fix = "boxes are [x, y, width, height] in pixels, not shares of the image: correct or remove these annotations"
        yield Finding("small_box", f"{text}; {fix}", "warning")
    if split.is_rotated.any():
        count = f"{split.is_rotated.sum()} of {len(split.is_rotated)} boxes are rotated (attributes.rotation)"
        fix = "the rotation is not read: give the upright box around each object"
        yield Finding("rotated_box", f"{count}: {_box_examples(split, split.is_rotated)}; {fix}", "warning")
    ends = (split.xywh[:, :2] + split.xywh[:, 2:]) / split.sizes[split.image_of_box][:, ::-1]
    if len(ends) >= FEWEST_IN_CORNER and (ends <= 0.5).all():
        text = f"all {len(ends)} boxes lie in the upper left quarter of their images, the last ends at {ends.max():.0%}"
        fix = "check that they are in pixels of these images, not in percent or of a smaller copy"
        yield Finding("corner", f"{text}; {fix}", "warning")


def _repeated_boxes(split: Split) -> Iterator[Finding]:
    """Boxes that occur twice on an image, with one category or with two."""
    rows = np.flatnonzero(np.isfinite(split.xywh).all(axis=1) & ~split.is_crowd)
    places = np.column_stack([split.image_of_box[rows], np.round(split.xywh[rows], SAME_BOX_DECIMALS)])
    _, place, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    labelled = np.column_stack([place.reshape(-1), split.labels[rows]])
    _, first, index, times = np.unique(labelled, axis=0, return_index=True, return_inverse=True, return_counts=True)
    is_repeated = np.zeros(len(split.xywh), dtype=bool)
    is_repeated[rows] = (times[index.reshape(-1)] > 1) & (first[index.reshape(-1)] != np.arange(len(rows)))
    if is_repeated.any():
        text = f"{is_repeated.sum()} boxes repeat another of the same image and category"
        fix = "each lesion would be a target twice: remove these annotations"
        yield Finding("repeated_box", f"{text}: {_box_examples(split, is_repeated)}; {fix}", "warning")
    is_disputed = np.zeros(len(split.xywh), dtype=bool)
    is_disputed[rows] = counts[place.reshape(-1)] > times[index.reshape(-1)]
    if is_disputed.any():
        text = f"{is_disputed.sum()} boxes have two categories at once: {_box_examples(split, is_disputed)}"
        yield Finding("disputed_box", f"{text}; decide for one, or each is background to the other", "warning")


def _box_examples(split: Split, is_bad: NDArray[np.bool_]) -> str:
    texts = []
    for row in np.flatnonzero(is_bad).tolist():
        image = split.image_of_box[row]
        box = ", ".join(f"{value:g}" for value in split.xywh[row])
        height, width = split.sizes[image]
        texts.append(f"[{box}] on {split.file_names[image]} (id {split.image_ids[image]}, {width} x {height})")
    return first_few(texts)
