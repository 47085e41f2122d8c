"""Check a split before it is used: file names, boxes and categories in the list, then the images.

Errors: image files missing, outside the image folder, unreadable, or of another size than recorded; an image that is
listed twice; boxes not finite, negative, all within [0, 1], or outside their image by more than a pixel; category
names that are not unique. All else is a warning or a note.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from datasets.annotations.name_matching import leaves_folder
from datasets.annotations.split import Split
from datasets.checks.boxes import find_in_boxes
from datasets.checks.categories import find_in_category_names
from datasets.checks.file_names import find_in_file_names
from datasets.checks.findings import Finding
from datasets.checks.image_files import ImageFile
from util.base.text import first_few
from util.detection.pixels import NARROW
from util.images import ImageFacts
from util.images.orientation import AS_STORED, RECORDED_TURNED, describe_turned, is_recorded_turned


def find_in_annotations(split: Split) -> Iterator[Finding]:
    """Findings that need no image to be opened, in a list alone."""
    yield from (Finding("converted", note, "warning") for note in split.notes)
    yield from find_in_file_names(split)
    yield from _narrow_images(split)
    yield from find_in_boxes(split)
    yield from find_in_category_names(split)


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
        content = None if leaves_folder(name) else contents.get(os.path.abspath(split.path(index)))
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
    return [split.image_dir / name for name in split.file_names.tolist() if not leaves_folder(name)]


def _narrow_images(split: Split) -> Iterator[Finding]:
    is_narrow = split.sizes.max(axis=1) > NARROW * split.sizes.min(axis=1)
    if is_narrow.any():
        examples = [
            f"{split.file_names[i]} ({split.sizes[i][1]} x {split.sizes[i][0]})" for i in np.flatnonzero(is_narrow)
        ]
        text = f"{len(examples)} images are more than {NARROW} times as long as wide: {first_few(examples)}"
        yield Finding("narrow", f"{text}; resized, little of them can be seen: remove their records", "warning")
