"""The same picture twice: in training and validation, or in one list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.checks.image_files import ImageFile

# Of 255 signs. Copies saved anew, scaled, or with another gamma differ in at most 16; the most alike of 780 pairs of
# different chest X-rays differ in 74, of 9591 pairs of phantom images in 26.
NEAR = 16
ROWS_AT_ONCE = 2048


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
