"""Read lists of JSON records column by column. An error names the row and the key of a wrong value.

Values that are not as COCO has them are converted where their meaning is certain (`datasets.annotations.tolerance`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.annotations import tolerance
from datasets.annotations.tolerance import Conversion, Notes
from util.base.errors import DataError
from util.base.reading import read_document
from util.base.text import first_few

LARGEST_INTEGER = 2**63 - 1
REQUIRED: Any = object()  # stands where a record lacks a key that it must have
ABSENT: Any = object()  # one that it need not have
LabelledBox = tuple[int, list[float]]  # category id, [x, y, width, height] in pixels


@dataclass(frozen=True)
class Records:
    """One list of a COCO-format file."""

    file: Path
    name: str  # "images", "annotations" or "categories"
    rows: list[dict[str, Any]]
    notes: Notes = field(default_factory=Notes)  # of all lists of the file

    def integers(self, key: str, *, low: int = 0, convert: Conversion = tolerance.whole_number) -> NDArray[np.int64]:
        """The column `key` [rows], whole numbers from `low` on."""

        def is_valid(value: object) -> bool:
            return type(value) is int and low <= value <= LARGEST_INTEGER

        return np.array(self._column(key, is_valid, f"a whole number from {low} on", convert), dtype=np.int64)

    def image_ids(self, key: str) -> NDArray[np.int64]:
        """The column `key` [rows], ids of images, which may be texts."""
        return self.integers(key, convert=tolerance.image_id)

    def texts(self, key: str) -> list[str]:
        """The column `key`, strings."""
        return self._column(key, lambda value: isinstance(value, str), "a text", lambda _record, _value: None)

    def flags(self, key: str) -> NDArray[np.bool_]:
        """The column `key` [rows] of 0 and 1; 0 where a record has none."""
        values = self._column(key, lambda value: value in (0, 1), "0 or 1", tolerance.flag, default=0)
        return np.array(values, dtype=bool)

    def numbers(self, key: str, default: NDArray[np.float64]) -> NDArray[np.float64]:
        """The column `key` [rows]; the value of `default` where a record has none."""

        def is_valid(value: object) -> bool:
            return value is ABSENT or _is_number(value)

        values = self._column(key, is_valid, "a number", tolerance.area, default=ABSENT)
        filled = [d if v is ABSENT or v is None else v for v, d in zip(values, default.tolist(), strict=True)]
        return np.array(filled, dtype=float)

    def boxes(self, key: str) -> NDArray[np.float64]:
        """The column `key` [rows, 4], lists of four numbers; where it is missing, boxes around 'segmentation'."""

        def is_valid(value: object) -> bool:
            return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))

        values = self._column(key, is_valid, "a list [x, y, width, height]", tolerance.box)
        return np.array(values, dtype=float).reshape(-1, 4)

    def _column(
        self, key: str, is_valid: Callable[[Any], bool], expected: str, convert: Conversion, default: Any = REQUIRED
    ) -> list[Any]:
        values = []
        for i, row in enumerate(self.rows):
            if not isinstance(row, dict):
                where = f"{self.file}: {self.name}[{i}]"
                raise DataError(f"{where} must be an object with the key '{key}', got {_show(row)}")
            value = row.get(key, default)
            if not is_valid(value):
                value = self._converted(i, key, is_valid, expected, convert)
            values.append(value)
        return values

    def _converted(
        self, i: int, key: str, is_valid: Callable[[Any], bool], expected: str, convert: Conversion
    ) -> object:
        """The value that an unusual one means, with a note."""
        row = self.rows[i]
        converted = convert(row, row.get(key))
        if converted is not None and (converted[0] is None or is_valid(converted[0])):
            got = f"'{key}' {_show(row[key])}" if key in row else f"without '{key}'"
            self.notes.add(converted[1], f"{self.name}[{i}] {got}")
            return converted[0]
        where = f"{self.file}: {self.name}[{i}]"
        if key not in row:
            raise DataError(f"{where} has no '{key}' ({expected}); it has {', '.join(map(str, row)) or 'no keys'}")
        raise DataError(f"{where}: '{key}' must be {expected}, got {_show(row[key])}")


def read_records(file: Path, names: tuple[str, ...]) -> dict[str, Records]:
    """The lists called `names` of a COCO-format file.

    Raises:
        DataError: no such file, not JSON, or not an object with these lists.
    """
    try:
        content = read_document(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such annotation file; check --data_path and the split's name") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise DataError(
            f"{file}: cannot be read as an annotation file: {reason}; download or write it again"
        ) from error
    return parse_records(content, file, names)


def parse_records(text: bytes | bytearray, file: Path, names: tuple[str, ...]) -> dict[str, Records]:
    """The lists called `names` in the bytes of a COCO-format file; `file` is what messages call it.

    Raises:
        DataError: not JSON, or not an object with these lists.
    """
    repeated: set[str] = set()
    try:
        content = json.loads(text, object_pairs_hook=partial(_as_object, repeated=repeated))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON ({error}); download or write the annotation file again") from error
    if repeated:
        raise DataError(
            f"{file}: {first_few(sorted(repeated))} occurs twice in one object, with different values, of which only "
            "the last would be read: keep one"
        )
    required = "a COCO-format file is an object with the lists " + ", ".join(names)
    if not isinstance(content, dict):
        raise DataError(f"{file}: {required}; this one holds {_show(content)}")
    for name in names:
        if name not in content:
            hint = "; for images without boxes add 'annotations': []" if name == "annotations" else ""
            raise DataError(
                f"{file}: has no '{name}'; {required}; this one has {', '.join(content) or 'no keys'}{hint}"
            )
        if not isinstance(content[name], list):
            raise DataError(f"{file}: '{name}' must be a list, got {_show(content[name])}")
    notes = Notes()
    return {name: Records(file, name, content[name], notes) for name in names}


def _as_object(pairs: list[tuple[str, Any]], repeated: set[str]) -> dict[str, Any]:
    """The object of these pairs; `repeated` collects the keys that have two values."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated |= {key for key, value in pairs if value != content[key]}
    return content


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST_INTEGER)


def _show(value: object) -> str:
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        text = repr(value)
        return f"{kind} of length {len(value)}" if len(text) > 60 else text
    return f"{str(value)[:60]!r} ({type(value).__name__})"
