"""The training and the validation split together, checked file by file before a training begins."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import Split
from datasets.checks.findings import Finding
from datasets.checks.image_files import ImageFile
from datasets.checks.split import Files
from util.base.text import first_few

# Of 255 signs. Copies saved anew, scaled, or with another gamma differ in at most 16; the most alike of 780 pairs of
# different chest X-rays differ in 74, of 9591 pairs of phantom images in 26.
NEAR = 16
ROWS_AT_ONCE = 2048


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


@dataclass(frozen=True)
class Pair:
    """Two names of one picture."""

    first: str
    second: str
    distance: int | None  # None: the files are equal byte by byte; else signs that differ

    def __str__(self) -> str:
        return f"{self.first} = {self.second}"


def pairs_between(first: Mapping[str, ImageFile], second: Mapping[str, ImageFile]) -> list[Pair]:
    """Pictures of `first` that are in `second` too; blank ones count only where the files are equal byte by byte."""
    by_digest = defaultdict(list)
    for name, file in second.items():
        by_digest[file.digest].append(name)
    equal = [Pair(a, b, None) for a, file in first.items() for b in by_digest.get(file.digest, [])]
    is_known = {(pair.first, pair.second) for pair in equal}
    near = [p for p in _near(first, second) if (p.first, p.second) not in is_known]
    return sorted(equal, key=str) + sorted(near, key=str)


def groups_within(files: Mapping[str, ImageFile]) -> list[list[str]]:
    """Names of files that are equal byte by byte, two or more together."""
    by_digest = defaultdict(list)
    for name, file in files.items():
        by_digest[file.digest].append(name)
    return sorted(sorted(names) for names in by_digest.values() if len(names) > 1)


def _near(first: Mapping[str, ImageFile], second: Mapping[str, ImageFile]) -> Iterator[Pair]:
    rows, columns = ([name for name, file in files.items() if not file.is_blank] for files in (first, second))
    if not rows or not columns:
        return
    ours, theirs = _signs([first[n] for n in rows]), _signs([second[n] for n in columns])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        # signs agree minus signs differ
        agreement = ours[start : start + ROWS_AT_ONCE] @ theirs.T
        distance = (theirs.shape[1] - agreement) / 2
        for i, j in np.argwhere(distance <= NEAR).tolist():
            yield Pair(rows[start + i], columns[j], int(distance[i, j]))


def _signs(files: list[ImageFile]) -> NDArray[np.float32]:
    """[files, 256] of +1 and -1."""
    bits = np.unpackbits(np.frombuffer(b"".join(file.look for file in files), np.uint8).reshape(len(files), -1), axis=1)
    return bits.astype(np.float32) * 2 - 1
