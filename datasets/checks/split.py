"""Check a split before it is used: file names, images, boxes, categories.

Errors: image files missing, outside the image folder, unreadable, or of another size than recorded; an image that is
listed twice; boxes not finite, without area, or outside their image by more than a pixel; category ids that
are not below `num_classes`; category names that are not unique. All else is a warning or a note.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import Split
from datasets.checks.findings import Finding, refuse_errors
from datasets.checks.image_files import ImageFile
from util.base.errors import DataError
from util.base.text import first_few
from util.detection.pixels import NARROW
from util.images import ImageFacts
from util.images.orientation import AS_STORED, RECORDED_TURNED, describe_turned, is_recorded_turned

# Annotation tools round and count from 0 or 1; beyond a pixel a box belongs to another image or another size of it.
OVERHANG_TOLERANCE = 1.0
SAME_BOX_DECIMALS = 1  # pixels; two boxes that agree so far are one


def find_in_annotations(split: Split, num_classes: int, *, drops_empty_boxes: bool) -> Iterator[Finding]:
    """Findings that need no image to be opened.

    Args:
        split: what to check.
        num_classes: of the network.
        drops_empty_boxes: boxes without area are no error. COCO 2017 has some, and the official conversion drops them;
            in TBX11K a lesion without area is a mistake.
    """
    yield from _file_name_problems(split)
    yield from _box_problems(split, drops_empty_boxes)
    yield from _repeated_boxes(split)
    yield from _category_problems(split, num_classes)


def find_in_images(split: Split, contents: Mapping[str, ImageFile | ImageFacts | str]) -> Iterator[Finding]:
    """Findings in the image files. The header of a truncated file is whole: only a file read to its end is checked.

    Args:
        split: what to check.
        contents: by absolute path what `datasets.checks.image_files` read; files that are absent are not checked.
    """
    unreadable = []
    resized = []
    blank = []
    turned: dict[str, int] = {}
    turned_records = 0
    for index, name in enumerate(split.file_names.tolist()):
        content = None if _leaves_folder(name) else contents.get(os.path.abspath(split.path(index)))
        recorded = tuple(split.sizes[index].tolist())
        if isinstance(content, str):
            unreadable.append(f"{name} ({content})")
        elif content is not None and content.size != recorded:
            height, width = content.size
            is_turned = is_recorded_turned(content.size, recorded, content.turn)
            tag = f", orientation tag {content.turn}" if is_turned else ""
            resized.append(f"{name} ({width} x {height} instead of {recorded[1]} x {recorded[0]}{tag})")
            turned_records += is_turned
        elif content is not None and content.turn != AS_STORED:
            turned[name] = content.turn
        if isinstance(content, ImageFile) and content.is_blank:
            blank.append(name)
    fix = "the boxes would not fit: put the original images back, or correct the records"
    fix = f"{RECORDED_TURNED if turned_records else fix}{f'; {fix}' if 0 < turned_records < len(resized) else ''}"
    yield from _describe_images(split, unreadable, resized, fix, turned, blank)


def _describe_images(
    split: Split, unreadable: list[str], resized: list[str], fix: str, turned: dict[str, int], blank: list[str]
) -> Iterator[Finding]:
    """A finding for each kind of defect of images that there is."""
    if unreadable:
        yield Finding(
            "unreadable",
            f"{len(unreadable)} of {split.num_images} images cannot be read: {first_few(unreadable)}; "
            "download these files again, or remove their records",
        )
    if resized:
        yield Finding(
            "resized",
            f"{len(resized)} of {split.num_images} images have another size (width x height) than recorded: "
            f"{first_few(resized)}; {fix}",
        )
    if turned:
        fix = "pixels are used as stored, and boxes must belong to these: no action needed if they do"
        yield Finding("turned", f"{describe_turned(turned, split.num_images)}; {fix}", "warning")
    if blank:
        text = f"{len(blank)} of {split.num_images} images are blank, all pixels alike: {first_few(blank)}"
        yield Finding("blank", f"{text}; download these files again, or remove their records", "warning")


def listed_files(split: Split) -> list[Path]:
    """The image files of a split, without names that leave the image folder."""
    return [split.image_dir / name for name in split.file_names.tolist() if not _leaves_folder(name)]


def check_pair(train: Split, val: Split) -> None:
    """Refuse two splits whose categories differ.

    Raises:
        DataError: one line per error that `find_in_categories` finds.
    """
    refuse_errors(find_in_categories(train, val), f"{val.annotation_file}: does not go with {train.annotation_file}")


def find_in_categories(train: Split, val: Split) -> Iterator[Finding]:
    """Category ids with different names in the two splits; validation boxes of categories that training lacks."""
    changed = [k for k in train.category_ids if k in val.names and val.names[k] != train.names[k]]
    if changed:
        examples = first_few([f"{k} is {train.names[k]} in training, {val.names[k]} in validation" for k in changed])
        text = f"{len(changed)} category ids have different names: {examples}; use one list in both files"
        yield Finding("changed_category", text)
    ids, counts = np.unique(val.labels[~val.is_crowd], return_counts=True)
    untrained = {k: n for k, n in zip(ids.tolist(), counts.tolist(), strict=True) if k not in train.names}
    if untrained:
        examples = first_few([f"{k} ({val.names[k]})" for k in untrained])
        text = (
            f"{sum(untrained.values())} of {val.num_boxes} boxes are of categories that training does not list: "
            f"{examples}; list them there, or remove these boxes"
        )
        yield Finding("untrained_category", text)


def _file_name_problems(split: Split) -> Iterator[Finding]:
    names = split.file_names.tolist()
    outside = [name for name in names if _leaves_folder(name)]
    if outside:
        yield Finding(
            "outside",
            f"{len(outside)} of {len(names)} file names leave the image folder: {first_few(outside)}; "
            f"give them relative to {split.image_dir}, without '..'",
        )
    yield from _repeated_images(names)
    yield from _narrow_images(split)
    if not split.image_dir.is_dir():
        yield Finding("no_folder", f"the image folder {split.image_dir} does not exist; check --data_path")
        return
    missing = _missing(split.image_dir, [name for name in names if not _leaves_folder(name)])
    if missing:
        yield Finding(
            "missing",
            f"{len(missing)} of {len(names)} images are missing in {split.image_dir}: {first_few(missing)}; "
            "complete the download, or remove their records",
        )


def _repeated_images(names: list[str]) -> Iterator[Finding]:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        text = (
            f"{len(repeated)} images are listed more than once: {first_few(repeated)}; the boxes of one record are "
            "background in the other: keep one record with all boxes"
        )
        yield Finding("repeated_image", text)


def _narrow_images(split: Split) -> Iterator[Finding]:
    is_narrow = split.sizes.max(axis=1) > NARROW * split.sizes.min(axis=1)
    if is_narrow.any():
        examples = [
            f"{split.file_names[i]} ({split.sizes[i][1]} x {split.sizes[i][0]})" for i in np.flatnonzero(is_narrow)
        ]
        text = f"{len(examples)} images are more than {NARROW} times as long as wide: {first_few(examples)}"
        yield Finding("narrow", f"{text}; resized, little of them can be seen: remove their records", "warning")


def _leaves_folder(name: str) -> bool:
    return "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _missing(folder: Path, names: list[str]) -> list[str]:
    """Names without a file. Folders are listed once each: asking for every file is slow on network disks."""
    parents = {name: str(PurePosixPath(name).parent) for name in names}
    files = {parent: _list_files(folder / parent) for parent in set(parents.values())}
    return [name for name in names if PurePosixPath(name).name not in files[parents[name]]]


def _list_files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, after following links; a circular link is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _box_problems(split: Split, drops_empty_boxes: bool) -> Iterator[Finding]:
    left, top, width, height = split.xywh.T
    image_height, image_width = split.sizes[split.image_of_box].T
    is_finite = np.isfinite(split.xywh).all(axis=1) & np.isfinite(split.area)
    is_empty = is_finite & ((width <= 0) | (height <= 0))
    overhang = np.stack([-left, -top, left + width - image_width, top + height - image_height])
    is_outside = is_finite & ~is_empty & (overhang > OVERHANG_TOLERANCE).any(axis=0)
    kinds = (
        ("not_finite", ~is_finite, "have numbers that are not finite", "correct or remove these annotations"),
        ("empty_box", is_empty, "have no width or no height", "correct or remove these annotations"),
        (
            "overhang",
            is_outside,
            f"reach more than {OVERHANG_TOLERANCE:g} px beyond their image",
            "boxes are [x, y, width, height] in pixels of the image as recorded: correct the boxes or the size",
        ),
    )
    for kind, is_bad, what, fix in kinds:
        if is_bad.any():
            text = f"{is_bad.sum()} of {len(is_bad)} boxes {what}: {_box_examples(split, is_bad)}; {fix}"
            yield Finding(kind, text, "note" if is_bad is is_empty and drops_empty_boxes else "error")
    is_wrong = is_finite & ~is_empty & ((split.area <= 0) | (split.area > 1 + 1.01 * width * height)) & ~split.is_crowd
    if is_wrong.any():
        text = f"{is_wrong.sum()} of {len(is_wrong)} boxes have an area that is 0 or more than width x height"
        fix = "AP by size uses the area: correct it, or leave it out"
        yield Finding("wrong_area", f"{text}: {_box_examples(split, is_wrong)}; {fix}", "warning")


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


def _category_problems(split: Split, num_classes: int) -> Iterator[Finding]:
    largest = split.category_ids[-1]
    if largest >= num_classes:
        yield Finding(
            "large_category",
            f"category ids go up to {largest} ({split.names[largest]}), but num_classes is {num_classes}; "
            f"set --options num_classes={largest + 1}",
        )
    if largest + 1 < num_classes:
        text = f"num_classes is {num_classes}, but category ids go up to {largest} ({split.names[largest]})"
        yield Finding("spare_classes", f"{text}; set --options num_classes={largest + 1}", "warning")
    repeated = [name for name, count in Counter(split.names.values()).items() if count > 1]
    if repeated:
        yield Finding(
            "repeated_category",
            f"{len(repeated)} category names stand for more than one id: {first_few(repeated)}; "
            "give each id a name of its own, or the metrics of one would hide those of another",
        )
    unused = sorted(set(split.names) - set(split.labels[~split.is_crowd].tolist()))
    if unused and split.num_boxes:
        text = f"{len(unused)} categories have no box: {first_few([f'{k} ({split.names[k]})' for k in unused])}"
        yield Finding(
            "unused_category", f"{text}; their AP is undefined and left out of means: no action needed", "note"
        )
