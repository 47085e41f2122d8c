"""What must hold before a split is used, checked in one go: files, boxes, categories."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from datasets.errors import DataError, MissingPackage
from datasets.images import UNREADABLE, read_size
from datasets.split import Split
from util.logger import Progress
from util.text import first_few

NUM_READERS = 8  # threads; on a network disk they mostly wait
FILES_PER_TASK = 32
# Annotation tools round and count from 0 or 1; beyond a pixel a box belongs to another image or another size of it.
TOLERANCE = 1.0


def check_split(split: Split, num_classes: int, *, drops_empty_boxes: bool = False, opens_images: bool = True) -> None:
    """Refuse a split that would fail or teach nonsense later.

    Args:
        split: what to check.
        num_classes: of the network.
        drops_empty_boxes: boxes without area are no reason to refuse. COCO 2017 has some, and the official
            conversion drops them; in TBX11K a lesion without area is a mistake that somebody should look at.
        opens_images: read the header of every image file too. That takes seconds on a local disk; who reads but a few
            of the images, or shares the split with a process that checks it, need not.

    Raises:
        DataError: one line per kind of problem, with counts, the first examples and the mend: image files missing,
            outside the image folder, no images, or of another size than recorded; boxes not finite, without area, or
            outside their image by more than a pixel; category ids that `num_classes` has no room for; category names
            that are not unique.
        MissingPackage: an image is DICOM, and what reads it is not installed.
    """
    problems = [
        *_file_problems(split, opens_images),
        *_box_problems(split, drops_empty_boxes),
        *_category_problems(split, num_classes),
    ]
    if problems:
        raise DataError("\n  ".join([f"{split.annotation_file}: cannot be used", *problems]))


def check_pair(train: Split, val: Split) -> None:
    """Refuse two splits that do not speak of the same categories.

    Raises:
        DataError: one line per kind of problem: a category id that means one thing in training and another in
            validation; validation boxes of a category that the training file does not list.
    """
    problems = []
    changed = [k for k in train.category_ids if k in val.names and val.names[k] != train.names[k]]
    if changed:
        examples = first_few([f"{k} is {train.names[k]} there, but {val.names[k]} here" for k in changed])
        problems.append(f"{len(changed)} category ids mean something else: {examples}; use one list in both files")
    ids, counts = np.unique(val.labels[~val.is_crowd], return_counts=True)
    strange = {k: n for k, n in zip(ids.tolist(), counts.tolist(), strict=True) if k not in train.names}
    if strange:
        examples = first_few([f"{k} ({val.names[k]})" for k in strange])
        problems.append(
            f"{sum(strange.values())} of {val.num_boxes} boxes are of categories that training does not list: "
            f"{examples}; list them there, or remove these boxes"
        )
    if problems:
        raise DataError("\n  ".join([f"{val.annotation_file}: does not go with {train.annotation_file}", *problems]))


def _file_problems(split: Split, opens_images: bool) -> Iterator[str]:
    names = split.file_names.tolist()
    outside = [name for name in names if _leaves_folder(name)]
    if outside:
        yield (
            f"{len(outside)} of {len(names)} file names leave the image folder: {first_few(outside)}; "
            f"give them relative to {split.image_dir}, without '..'"
        )
    if not split.image_dir.is_dir():
        yield f"the image folder {split.image_dir} does not exist; check --data_path"
        return
    missing = _missing(split.image_dir, [name for name in names if not _leaves_folder(name)])
    if missing:
        yield (
            f"{len(missing)} of {len(names)} images are missing in {split.image_dir}: {first_few(missing)}; "
            "complete the download, or remove their records"
        )
    if opens_images:
        left_out = {*outside, *missing}
        yield from _header_problems(split, [i for i, name in enumerate(names) if name not in left_out])


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


def _header_problems(split: Split, positions: list[int]) -> Iterator[str]:
    """What the headers of the files at `positions` tell. A file cut in the middle shows only when it is read."""
    unreadable, resized = [], []
    headers = _read_headers([split.image_dir / str(split.file_names[i]) for i in positions])
    for position, header in zip(positions, headers, strict=True):
        name, recorded = split.file_names[position], tuple(split.sizes[position].tolist())
        if isinstance(header, str):
            unreadable.append(f"{name} ({header})")
        elif header != recorded:
            resized.append(f"{name} ({header[1]} x {header[0]} instead of {recorded[1]} x {recorded[0]})")
    if unreadable:
        yield (
            f"{len(unreadable)} of {split.num_images} images cannot be read: {first_few(unreadable)}; "
            "fetch these files anew, or remove their records"
        )
    if resized:
        yield (
            f"{len(resized)} of {split.num_images} images have another size (width x height) than recorded: "
            f"{first_few(resized)}; the boxes would not fit: put the original images back, or correct the records"
        )


def _read_headers(paths: list[Path]) -> Iterator[tuple[int, int] | str]:
    """(height, width) of each file, or why it is no image."""
    tasks = [paths[i : i + FILES_PER_TASK] for i in range(0, len(paths), FILES_PER_TASK)]
    progress = Progress("checking the images", len(paths), "images")
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for headers in pool.map(lambda task: [_read_header(path) for path in task], tasks):
            progress.advance(len(headers))
            yield from headers
    progress.close()


def _read_header(path: Path) -> tuple[int, int] | str:
    try:
        return read_size(path)
    except MissingPackage:
        raise
    except UnidentifiedImageError:
        return "no image" if path.stat().st_size else "empty"
    except UNREADABLE as error:
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


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
    return first_few(texts)


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
            f"{len(repeated)} category names stand for more than one id: {first_few(repeated)}; "
            "give each id a name of its own, or the figures of one would hide those of another"
        )
