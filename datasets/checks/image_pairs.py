"""Find images that the training and the validation split share, and copies within one split."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import Split
from datasets.checks.findings import Finding
from datasets.checks.image_files import Files, ImageFile
from util.base.text import first_few

# Of 255 signs. Copies saved again, scaled, or with another gamma differ in at most 16; the most alike of 780 pairs of
# different chest X-rays differ in 74, of 9591 pairs of phantom images in 26.
LARGEST_DISTANCE = 16
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class SplitFiles:
    """A split with the records of its readable image files, by file name."""

    split: Split
    files: Mapping[str, ImageFile]

    @classmethod
    def of(cls, split: Split, files: Files) -> SplitFiles:
        """Those of `files`, which are named by absolute path, that `split` lists."""
        records = {name: files.get(os.path.abspath(split.image_dir / name)) for name in split.file_names.tolist()}
        return cls(split, {name: file for name, file in records.items() if isinstance(file, ImageFile)})


@dataclass(frozen=True)
class Pair:
    """Two files with the same image."""

    first: str
    second: str
    distance: int | None  # None: the files are equal byte by byte; else the number of differing signs

    def __str__(self) -> str:
        return f"{self.first} = {self.second}"


def leaked_pairs(train: SplitFiles, val: SplitFiles) -> list[Pair]:
    """Images of `train` that are in `val` too, in another file."""
    same = val.files if _is_one_folder(train, val) else {}
    return pairs_between({name: file for name, file in train.files.items() if name not in same}, val.files)


def find_shared_images(train: SplitFiles, val: SplitFiles) -> Iterator[Finding]:
    """Validation images that are training images too: by file name, byte by byte, or nearly."""
    names = train.split.file_names.tolist()
    shared = sorted({*names} & {*val.split.file_names.tolist()}) if _is_one_folder(train, val) else []
    if shared:
        text = f"{len(shared)} of {val.split.num_images} validation images are training images too: {first_few(shared)}"
        yield Finding("shared_name", f"{text}; remove them from one list, or the metrics are too good", "warning")
    pairs = leaked_pairs(train, val)
    equal, near = ([p for p in pairs if (p.distance is None) == is_equal] for is_equal in (True, False))
    for kind, found, how in (
        ("shared_bytes", equal, "byte-identical to"),
        ("near_identical", near, "nearly identical to"),
    ):
        if found:
            text = f"{len(found)} training images are {how} a validation image: {first_few(found)}"
            fix = "scripts/prepare_data.py --drop_leaked writes lists without them"
            yield Finding(kind, f"{text}; {fix}", "warning")


def find_repeated_files(listed: SplitFiles) -> Iterator[Finding]:
    """Byte-identical files in one list."""
    split = listed.split
    groups = groups_within(listed.files)
    if not groups:
        return
    position = {name: i for i, name in enumerate(split.file_names.tolist())}
    text = f"{len(groups)} groups of images are byte-identical: {first_few([' = '.join(g) for g in groups])}"
    yield Finding("repeated_bytes", f"{text}; they count several times: keep one of each if that matters", "note")
    disputed = [g for g in groups if len({_boxes(split, position[name]) for name in g}) > 1]
    if disputed:
        text = f"{len(disputed)} groups of byte-identical images have different boxes"
        examples = first_few([" = ".join(group) for group in disputed])
        yield Finding("disputed_image", f"{text}: {examples}; keep the correct record, remove the others", "warning")


def _boxes(split: Split, index: int) -> tuple[tuple[float, ...], ...]:
    rows = split.boxes_of(index)
    return tuple(sorted(map(tuple, np.column_stack([split.labels[rows], split.xywh[rows].round(1)]).tolist())))


def _is_one_folder(train: SplitFiles, val: SplitFiles) -> bool:
    return os.path.abspath(train.split.image_dir) == os.path.abspath(val.split.image_dir)


def pairs_between(first: Mapping[str, ImageFile], second: Mapping[str, ImageFile]) -> list[Pair]:
    """Images of `first` that are in `second` too; blank ones count only where the files are equal byte by byte."""
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
    signs = _signs([first[n] for n in rows])
    others = _signs([second[n] for n in columns])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        agreement = signs[start : start + ROWS_AT_ONCE] @ others.T  # equal signs minus differing ones
        distance = (others.shape[1] - agreement) / 2
        for i, j in np.argwhere(distance <= LARGEST_DISTANCE).tolist():
            yield Pair(rows[start + i], columns[j], int(distance[i, j]))


def _signs(files: list[ImageFile]) -> NDArray[np.float32]:
    """[files, 256] of +1 and -1."""
    packed = np.frombuffer(b"".join(file.phash for file in files), np.uint8)
    bits = np.unpackbits(packed.reshape(len(files), -1), axis=1)
    return bits.astype(np.float32) * 2 - 1
