"""Rows of a results file of any tool, rewritten with the ids of a ground truth file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from util.base.text import first_few
from util.metrics.files import DetectionsError, kind_of
from util.metrics.results.join import AmbiguousName, CategoryNames, ImageNames, Key, join, whole
from util.metrics.tables import GroundTruth

CATEGORY_KEYS = ("category_id", "category_name", "category")  # the first that a row has


@dataclass(frozen=True)
class ResultRows:
    """Rows with the ids of the ground truth."""

    rows: list[Any]
    unknown: Mapping[int, str] = field(default_factory=dict)  # ids given to categories that only the file has -> name
    notes: tuple[str, ...] = ()


def result_rows(document: Any, truth: GroundTruth, path: Path) -> ResultRows:
    """Take the rows of a results list, or of a COCO-format object with "annotations" that have scores.

    Images are found by the file name of a row, or of the file's own list of images, else by their id, which may be a
    number, a number as text, or a file name; categories by the name in the file's own list, else by id or name.

    Raises:
        DetectionsError: it is neither, or an image is not in the ground truth.
    """
    lists = document if isinstance(document, dict) else {"annotations": document}
    rows = lists.get("annotations")
    if not isinstance(rows, list):
        raise DetectionsError(
            f"{path}: expected a list of detections (a COCO results file), or an object with them as 'annotations', "
            f"got {kind_of(document)}"
        )
    known = set(truth.images)
    if isinstance(document, list) and all(_is_plain(row, known) for row in rows):
        return ResultRows(rows)
    if rows and isinstance(document, dict) and not any("score" in row for row in rows if isinstance(row, dict)):
        raise DetectionsError(f"{path}: its annotations have no score: this is ground truth, not detections")
    try:
        images, notes = _images(rows, _names(lists, "images", "file_name"), truth)
        categories, unknown = _categories(rows, _names(lists, "categories", "name"), truth)
    except _RowError as error:
        raise DetectionsError(f"{path}: row {error.row} (from 0): {error}") from error
    except AmbiguousName as error:
        raise DetectionsError(f"{path}: {error}") from error
    joined = [_rewritten(*parts) for parts in zip(rows, images, categories, strict=True)]
    return ResultRows(joined, unknown, notes)


class _RowError(ValueError):
    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


def _is_plain(row: Any, images: set[int]) -> bool:
    """Whether a row needs no rewriting; what is no row at all is named later."""
    if not isinstance(row, dict):
        return True
    is_known = type(row.get("image_id")) is int and row["image_id"] in images
    return (
        is_known
        and type(row.get("category_id")) is int
        and "file_name" not in row
        and type(row.get("score")) is not str
    )


def _rewritten(row: Any, image: Any, category: Any) -> Any:
    if not isinstance(row, dict):
        return row
    score = row.get("score")
    values = {"image_id": image, "category_id": category, "score": _number(score) if type(score) is str else score}
    return {**row, **{key: value for key, value in values.items() if value is not None}}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _names(lists: Mapping[str, Any], name: str, key: str) -> dict[Key, str]:
    """The names in a list of the file itself by id; empty where it has none."""
    entries = lists.get(name)
    kept = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {e["id"]: e[key] for e in kept if _is_key(e.get("id")) and type(e.get(key)) is str}


def _is_key(value: Any) -> bool:
    return type(value) in (int, str) or (type(value) is float and isfinite(value))


def _column(rows: list[Any], *keys: str) -> list[Key | None]:
    """The value of the first of these keys in each row; None where that is neither number nor text."""
    values = (next((row[key] for key in keys if key in row), None) if isinstance(row, dict) else None for row in rows)
    return [value if _is_key(value) else None for value in values]


def _images(rows: list[Any], own: Mapping[Key, str], truth: GroundTruth) -> tuple[list[Any], tuple[str, ...]]:
    """The image id of each row, and what was not taken as it is."""
    names = ImageNames(truth.files)
    ids = _column(rows, "image_id")
    named = [own.get(i) if i is not None else None for i in ids]
    files = [f if type(f) is str else n for f, n in zip(_column(rows, "file_name"), named, strict=True)]
    by_file = join({f for f in files if f is not None}, (), names)
    if by_file:  # ids are of the tool that wrote the file: a prediction of a folder counts from 1
        values = [i if f is None else f for f, i in zip(files, ids, strict=True)]
        by_value = {**join({i for i in values if i is not None}, truth.images, names), **by_file}
    else:
        values = ids
        by_value = join({i for i in ids if i is not None}, truth.images, names)
    missing = next((n for n, value in enumerate(values) if value is not None and value not in by_value), None)
    if missing is not None:
        example = first_few([repr(name) for name in list(truth.files.values())[:1]])
        key = "image_id" if values[missing] == ids[missing] else "file_name"
        raise _RowError(
            missing,
            f"{key} {values[missing]!r} is none of the {len(truth.images)} images, neither as id nor as file name "
            f"with or without folder and ending (one is {example}); were they made on another split?",
        )
    found = [None if value is None else by_value[value] for value in values]
    by_name = sum(value is not None and whole(value) != image for value, image in zip(values, found, strict=True))
    return found, (f"{by_name} of {len(rows)} rows were joined with their images by file name",) if by_name else ()


def _categories(rows: list[Any], own: Mapping[Key, str], truth: GroundTruth) -> tuple[list[Any], dict[int, str]]:
    """The category id of each row, and the names of ids that stand for categories that only the file has."""
    names = CategoryNames(truth.names)
    values = _column(rows, *CATEGORY_KEYS)
    if any(names.find(name) is not None for name in own.values()):
        values = [own.get(value, value) if value is not None else None for value in values]
    found: dict[Key, int] = join({value for value in values if value is not None}, truth.names, names)
    taken = {*truth.names, *filter(None, map(whole, values))}
    free = (number for number in count() if number not in taken)
    unknown: dict[int, str] = {}
    for value in dict.fromkeys(value for value in values if value is not None and value not in found):
        number = whole(value)
        if number is None and type(value) is str:
            number = next(free)
            unknown[number] = value
        if number is not None:
            found[value] = number
    return [None if value is None else found.get(value) for value in values], unknown
