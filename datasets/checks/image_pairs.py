"""The training and the validation split together, checked file by file before a training begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from datasets.annotations.split import Split
from datasets.checks.findings import Finding
from datasets.checks.image_files import ImageFile
from datasets.checks.split import Files
from datasets.leaks import Pair, groups_within, pairs_between
from util.text import first_few


@dataclass(frozen=True)
class Pictures:
    """A split with what its files hold."""

    split: Split
    files: Mapping[str, ImageFile]  # by file name, those that could be read

    @classmethod
    def of(cls, split: Split, files: Files) -> Pictures:
        """Those of `files`, which go by absolute path, that `split` lists."""
        paths = {name: files.get(os.path.abspath(split.image_dir / name)) for name in split.file_names.tolist()}
        return cls(split, {name: file for name, file in paths.items() if isinstance(file, ImageFile)})


def leaked(train: Pictures, val: Pictures) -> list[Pair]:
    """Pictures of `train` that are in `val` too, in another file."""
    same = val.files if _is_one_folder(train, val) else {}
    return pairs_between({name: file for name, file in train.files.items() if name not in same}, val.files)


def find_between(train: Pictures, val: Pictures) -> Iterator[Finding]:
    """What of validation is in training too, and ids that mean two images."""
    names = train.split.file_names.tolist()
    shared = sorted({*names} & {*val.split.file_names.tolist()}) if _is_one_folder(train, val) else []
    if shared:
        text = f"{len(shared)} of {val.split.num_images} validation images are training images too: {first_few(shared)}"
        yield Finding("shared_name", f"{text}; take them out of one list, or the figures flatter", "warning")
    pairs = leaked(train, val)
    equal, near = ([p for p in pairs if (p.distance is None) == is_equal] for is_equal in (True, False))
    for kind, found, how in (
        ("shared_bytes", equal, "byte-identical to"),
        ("near_identical", near, "nearly the picture of"),
    ):
        if found:
            text = f"{len(found)} training images are {how} a validation image: {first_few(found)}"
            mend = "scripts/prepare_tbx11k.py --drop_leaked writes lists without them"
            yield Finding(kind, f"{text}; {mend}", "warning")


def find_within(pictures: Pictures) -> Iterator[Finding]:
    """Pictures that a list holds more than once."""
    split = pictures.split
    groups = groups_within(pictures.files)
    if not groups:
        return
    position = {name: i for i, name in enumerate(split.file_names.tolist())}
    text = f"{len(groups)} groups of images are byte-identical: {first_few([' = '.join(g) for g in groups])}"
    yield Finding("repeated_bytes", f"{text}; they count several times: keep one of each if that matters", "note")
    disputed = [g for g in groups if len({_boxes(split, position[name]) for name in g}) > 1]
    if disputed:
        text = f"{len(disputed)} groups of byte-identical images have different boxes"
        examples = first_few([" = ".join(group) for group in disputed])
        yield Finding("disputed_image", f"{text}: {examples}; decide for one truth, remove the other", "warning")


def _boxes(split: Split, index: int) -> tuple[tuple[float, ...], ...]:
    rows = split.boxes_of(index)
    return tuple(sorted(map(tuple, np.column_stack([split.labels[rows], split.xywh[rows].round(1)]).tolist())))


def _is_one_folder(train: Pictures, val: Pictures) -> bool:
    return os.path.abspath(train.split.image_dir) == os.path.abspath(val.split.image_dir)
