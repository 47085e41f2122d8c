"""Names of splits: which of them are the same, as val, valid and val2017."""

from __future__ import annotations

import re

CLEAN_SUFFIX = "_clean"  # of a list without leaked images; its images are those of the list without the suffix
SAME = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def side_of(name: str) -> str | None:
    """ "train", "val" or "test", where the name of a folder or list is another word for it, also with a year."""
    return _parts(name)[0]


def is_same_split(name: str, other: str) -> bool:
    """Whether two names mean one split: words for the same side, and no two different years."""
    side, year = _parts(name)
    other_side, other_year = _parts(other)
    return side is not None and side == other_side and (year == other_year or not (year and other_year))


def _parts(name: str) -> tuple[str | None, str]:
    match = re.fullmatch(r"([a-z]+)[_-]?((?:19|20)\d\d)?", name.lower())
    return (SAME.get(match[1]), match[2] or "") if match else (None, "")
