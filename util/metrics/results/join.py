"""Find the images and categories of a ground truth file by what other tools call them: ids, numbers as text, names."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from util.base.text import first_few, printable
from util.metrics.files import LARGEST_ID

Key = int | float | str


class AmbiguousName(ValueError):  # noqa: N818 named after its cause
    """A name that may mean several images or categories."""


class ImageNames:
    """Images by file name: with or without its ending, with all, some or none of its folders, or in another case.

    Args:
        files: file names by image id.
    """

    def __init__(self, files: Mapping[int, str]) -> None:
        self.files = files
        self._exact = {name: image for image, name in files.items()}
        self._parts: dict[str, set[int]] = defaultdict(set)  # end of a path, with and without its ending
        self._folded: dict[str, set[int]] = defaultdict(set)
        self._numbers: dict[int, set[int]] = defaultdict(set)
        for image, name in files.items():
            for part in _parts(name):
                self._parts[part].add(image)
                self._folded[_folded(part)].add(image)
            stem = _without_ending(PurePosixPath(name).name)
            if stem.isascii() and stem.isdigit():
                self._numbers[int(stem)].add(image)

    def find(self, name: Key) -> int | None:
        """The image of a name, or of a number where stems are numbers; None where there is none.

        Raises:
            AmbiguousName: it may mean several images.
        """
        if not isinstance(name, str):
            return self._only(self._numbers.get(int(name), set()), name) if name == int(name) else None
        path = name.replace("\\", "/")
        if path in self._exact:
            return self._exact[path]
        for table, keys in ((self._parts, _parts(path)), (self._folded, map(_folded, _parts(path)))):
            for key in keys:
                if key in table:
                    return self._only(table[key], name)
        return None

    def _only(self, images: set[int], name: Key) -> int | None:
        if len(images) > 1:
            names = first_few(sorted(self.files[image] for image in images))
            raise AmbiguousName(
                f"{printable(repr(name))} may be {len(images)} images of the ground truth: {names}; write file names "
                "with folder and ending, as there"
            )
        return next(iter(images), None)


def _parts(path: str) -> list[str]:
    """The ends of a path, longest first; each as it is, then all without the ending of the file name."""
    folders = [part for part in path.split("/") if part not in ("", ".")]
    ends = ["/".join(folders[first:]) for first in range(len(folders))]
    return list(dict.fromkeys([*ends, *map(_without_ending, ends)]))


def _without_ending(path: str) -> str:
    """Remove what follows the last dot of the file name, unless it is all of it."""
    stem, dot, ending = path.rpartition(".")
    return stem if dot and "/" not in ending and stem.rpartition("/")[2] else path


def _folded(text: str) -> str:
    """A name without case, without blanks at its ends, and with composed characters."""
    return unicodedata.normalize("NFC", text).casefold().strip()


class CategoryNames:
    """Categories by name; where no name is equal, without case and blanks at the ends.

    Args:
        names: of the categories by id.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self._exact: dict[str, set[int]] = defaultdict(set)
        self._folded: dict[str, set[int]] = defaultdict(set)
        for category, name in names.items():
            self._exact[name].add(category)
            self._folded[_folded(name)].add(category)

    def find(self, name: Key) -> int | None:
        """The category of a name; None where there is none.

        Raises:
            AmbiguousName: it may mean several categories.
        """
        if not isinstance(name, str):
            return None
        found = self._exact.get(name) or self._folded.get(_folded(name)) or set()
        if len(found) > 1:
            raise AmbiguousName(f"{printable(repr(name))} may be {len(found)} categories of the ground truth")
        return next(iter(found), None)


def whole(value: Any) -> int | None:
    """The id that a number or a text of digits means, as 12, 12.0 and "12"; None for anything else."""
    if type(value) is float:
        return int(value) if value.is_integer() else None
    if type(value) is str and value.strip().isascii() and len(value) < 20:
        text = value.strip().removesuffix(".0")
        return int(text) if text.isdigit() and int(text) <= LARGEST_ID else None
    return value if type(value) is int else None


def join(values: Iterable[Key], known: Iterable[int], names: ImageNames | CategoryNames) -> dict[Key, int]:
    """The ids that values mean: all as ids where all are, else all as names where all are, else each as what it is.

    Returns:
        the ids by value; a value that means nothing is absent.

    Raises:
        AmbiguousName: texts that may be ids or names, and mean other things as names; or a name of several.
    """
    values = set(values)
    ids = set(known)
    by_id = {value: number for value in values if (number := whole(value)) in ids and number is not None}
    texts = [value for value in values if type(value) is str]
    if len(by_id) == len(values) and not texts:
        return by_id
    is_all_ids = len(by_id) == len(values)
    try:
        by_name = {value: found for value in values if (found := names.find(value)) is not None}
    except AmbiguousName:
        if is_all_ids:
            return by_id
        raise
    if not is_all_ids:
        return by_name if len(by_name) == len(values) else {**by_name, **by_id}
    differ = sorted(value for value in texts if by_name.get(value, by_id[value]) != by_id[value])
    if differ and len(by_name) == len(values):
        raise AmbiguousName(
            f"{first_few(differ)} may be ids or names of the ground truth, which mean different entries there; write "
            "ids as numbers"
        )
    return by_id
