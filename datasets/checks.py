"""What must hold before a split is used, checked in one go: files, boxes, categories."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from datasets.coco import Split
from datasets.errors import DataError

NUM_EXAMPLES = 3
# Annotation tools round and count from 0 or 1; beyond a pixel a box belongs to another image or another size of it.
TOLERANCE = 1.0


def check_split(split: Split, num_classes: int, *, drops_empty_boxes: bool = False) -> None:
    """Refuse a split that would fail or teach nonsense later.

    Args:
        split: what to check.
        num_classes: of the network.
        drops_empty_boxes: boxes without area are no reason to refuse. COCO 2017 has some, and the official
            conversion drops them; in TBX11K a lesion without area is a mistake that somebody should look at.

    Raises:
        DataError: one line per kind of problem, with counts, the first examples and the mend: image files missing or
            outside the image folder; boxes not finite, without area, or outside their image by more than a pixel;
            category ids that `num_classes` has no room for; category names that are not unique.
    """
    problems = [
        *_file_problems(split),
        *_box_problems(split, drops_empty_boxes),
        *_category_problems(split, num_classes),
    ]
    if problems:
        raise DataError("\n  ".join([f"{split.annotation_file}: cannot be used", *problems]))


def _file_problems(split: Split) -> Iterator[str]:
    names = split.file_names.tolist()
    outside = [name for name in names if _leaves_folder(name)]
    if outside:
        yield (
            f"{len(outside)} of {len(names)} file names leave the image folder: {_examples(outside)}; "
            f"give them relative to {split.image_dir}, without '..'"
        )
    if not split.image_dir.is_dir():
        yield f"the image folder {split.image_dir} does not exist; check --data_path"
        return
    missing = _missing(split.image_dir, [name for name in names if not _leaves_folder(name)])
    if missing:
        yield (
            f"{len(missing)} of {len(names)} images are missing in {split.image_dir}: {_examples(missing)}; "
            "complete the download, or remove their records"
        )


def _leaves_folder(name: str) -> bool:
    return "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _missing(folder: Path, names: list[str]) -> list[str]:
    """Names without a file. Folders are listed once each: asking for every file is slow on network disks."""
    parents = {name: str(PurePosixPath(name).parent) for name in names}
    there = {parent: _list_files(folder / parent) for parent in set(parents.values())}
    return [name for name in names if PurePosixPath(name).name not in there[parents[name]]]


def _list_files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _box_problems(split: Split, drops_empty_boxes: bool) -> Iterator[str]:
    left, top, width, height = split.xywh.T
    image_height, image_width = split.sizes[split.image_of_box].T
    is_finite = np.isfinite(split.xywh).all(axis=1) & np.isfinite(split.area)
    is_empty = is_finite & ((width <= 0) | (height <= 0))
    overhang = np.stack([-left, -top, left + width - image_width, top + height - image_height])
    is_outside = is_finite & ~is_empty & (overhang > TOLERANCE).any(axis=0)
    kinds = (
        (~is_finite, "have numbers that are not finite", "correct or remove these annotations"),
        (is_empty, "have no width or no height", "correct or remove these annotations"),
        (
            is_outside,
            f"reach more than {TOLERANCE:g} px beyond their image",
            "boxes are [x, y, width, height] in pixels of the image as recorded: correct the boxes or the size",
        ),
    )
    for is_bad, what, mend in kinds:
        if is_bad.any() and not (is_bad is is_empty and drops_empty_boxes):
            yield f"{is_bad.sum()} of {len(is_bad)} boxes {what}: {_box_examples(split, is_bad)}; {mend}"


def _box_examples(split: Split, is_bad: NDArray[np.bool_]) -> str:
    texts = []
    for row in np.flatnonzero(is_bad).tolist():
        image = split.image_of_box[row]
        box = ", ".join(f"{value:g}" for value in split.xywh[row])
        height, width = split.sizes[image]
        texts.append(f"[{box}] on {split.file_names[image]} (id {split.image_ids[image]}, {width} x {height})")
    return _examples(texts)


def _category_problems(split: Split, num_classes: int) -> Iterator[str]:
    largest = split.category_ids[-1]
    if largest >= num_classes:
        yield (
            f"category ids go up to {largest} ({split.names[largest]}), but num_classes is {num_classes}; "
            f"set --options num_classes={largest + 1}"
        )
    repeated = [name for name, count in Counter(split.names.values()).items() if count > 1]
    if repeated:
        yield (
            f"{len(repeated)} category names stand for more than one id: {_examples(repeated)}; "
            "give each id a name of its own, or the figures of one would hide those of another"
        )


def _examples(texts: list[str]) -> str:
    return ", ".join(texts[:NUM_EXAMPLES]) + (", ..." if len(texts) > NUM_EXAMPLES else "")
