"""A CSV list: a row per box with the file, the corners and the label; a row without a box for an image without one."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from datasets.annotations.records import LabelledBox
from datasets.annotations.split_names import side_of
from datasets.prepare.collection import (
    WHOLE,
    Collection,
    Item,
    Locator,
    files_ending,
    number_categories,
    settle_lists,
    side_of_file,
)
from datasets.prepare.tree import Tree
from util.base.csv_text import read_csv
from util.base.errors import DataError
from util.base.text import first_few

TITLE = "CSV"
ENDINGS = (".csv", ".tsv")
# Columns by their usual names, in lower case and without what is no letter or digit.
COLUMNS = {
    "file": ("file", "filename", "filepath", "path", "image", "imagename", "imagepath", "img", "imgpath", "imageid"),
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
    "label": ("label", "class", "classname", "category", "categoryname", "name"),
    "split": ("split", "set", "subset"),
}
CORNERS = ("x1", "y1", "x2", "y2")
WITHOUT_HEADER = ("file", *CORNERS, "label")
SEPARATORS = (",", ";", "\t")
EMPTY = ("", "nan", "none", "null", "na", "n/a")
ENCODINGS_BY_MARK = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Row:
    """A row of a list; no label and no corners where the image has no box."""

    file: str
    split: str
    label: str | None
    corners: tuple[float, ...]


def find_files(tree: Tree) -> list[str]:
    """The lists of boxes in a tree."""
    return [file for file in files_ending(tree, *ENDINGS) if _columns(first_row(tree, file))]


def first_row(tree: Tree, file: str) -> list[str]:
    """The cells of the first line; none where it is no CSV."""
    text = _decode(tree.read(file))[0].lstrip().partition("\n")[0]
    try:
        rows = read_csv(text, _separator(text))
    except ValueError:
        return []
    return rows[0][1] if rows else []


def read(tree: Tree, files: list[str]) -> Collection:
    """Images with the boxes of their rows, as x = x1, y = y1, w = x2 - x1, h = y2 - y1.

    Categories get ids from 1 in the order of their names. Equal rows count once.

    Raises:
        DataError: a row is damaged, its image is not there, or two lists are of the same split.
    """
    notes: list[str] = []
    locator = Locator(tree)
    members: dict[str, dict[str, dict[Row, None]]] = {}
    repeated = 0
    for file in files:
        rows, encoding = _read_rows(tree, file)
        if encoding == "latin-1":
            notes.append(f"{file} is no UTF-8 and was read as Latin-1")
        side = side_of(PurePosixPath(file).stem) or side_of_file(file)
        for row in rows:
            part = row.split or side
            image = locator.find(row.file, file, side=part)
            boxes = members.setdefault(part, {}).setdefault(image or "", {})
            repeated += row in boxes
            boxes[row] = None
        locator.refuse_missing(file)
    if repeated:
        notes.append(f"{repeated} rows repeat another one and were left out")
    names = sorted({row.label for part in members.values() for rows in part.values() for row in rows if row.label})
    ids = {name: k for k, name in enumerate(names, start=1)}
    lists = {
        part: [Item.of_boxes(image, _boxes(rows, ids)) for image, rows in images.items()]
        for part, images in members.items()
    }
    listed = {item.file for items in lists.values() for item in items}
    if unlisted := sorted(set(locator.images) - listed):
        notes.append(f"{len(unlisted)} images are in no row and were left out: {first_few(unlisted)}")
    return Collection(tree, TITLE, number_categories(names), settle_lists(lists, notes), notes)


def _boxes(rows: Mapping[Row, None], ids: Mapping[str, int]) -> list[LabelledBox]:
    found: list[LabelledBox] = []
    for row in rows:
        if row.label:
            x1, y1, x2, y2 = row.corners
            found.append((ids[row.label], [x1, y1, x2 - x1, y2 - y1]))
    return found


def _decode(content: bytes) -> tuple[str, str]:
    """The text, and its encoding."""
    encoding = next((name for mark, name in ENCODINGS_BY_MARK if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin-1"


def _separator(line: str) -> str:
    return max(SEPARATORS, key=line.count)


def _columns(first: list[str]) -> dict[str, int]:
    """Positions of the columns by our names, by the header or in the order without one; empty for neither."""
    cells = [re.sub(r"[^a-z0-9]", "", value.lower()) for value in first]
    found = {name: cells.index(cell) for name, known in COLUMNS.items() for cell in known[::-1] if cell in cells}
    if found.keys() >= set(WITHOUT_HEADER):
        return found
    is_row = len(first) == len(WITHOUT_HEADER) and (_numbers(first[1:5], ",") or not any(first[1:5]))
    return {name: i for i, name in enumerate(WITHOUT_HEADER)} if is_row else {}


def _read_rows(tree: Tree, file: str) -> tuple[list[Row], str]:
    """The rows of a file, and its encoding."""
    text, encoding = _decode(tree.read(file))
    separator = _separator(text.lstrip().partition("\n")[0])
    try:
        table = read_csv(text, separator)
    except ValueError as error:
        raise DataError(f"{tree.root / file}: cannot be read as CSV ({error}); correct the file") from error
    first = table[0][1]
    columns = _columns(first)
    corners = [first[columns[name]] for name in CORNERS]
    has_header = any(corners) and _numbers(corners, separator) is None
    rows = []
    for number, cells in table[has_header:]:
        where = f"{tree.root / file}: line {number}"
        if len(cells) <= max(columns.values()):
            raise DataError(f"{where} has {len(cells)} cells, expected {len(first)}; correct the file")
        rows.append(_read_row({name: cells[i] for name, i in columns.items()}, separator, where))
    if not rows:
        raise DataError(f"{tree.root / file}: has a header and no row; add the rows")
    small = [row for row in rows if row.corners and max(row.corners) <= 1]
    if small and len(small) == sum(bool(row.corners) for row in rows):
        raise DataError(f"{tree.root / file}: all corners are in [0, 1], as shares of the image; write them in pixels")
    return rows, encoding


def _read_row(cells: dict[str, str], separator: str, where: str) -> Row:
    split = cells.get("split", "")
    side = side_of(split) if split else WHOLE
    if side is None:
        raise DataError(f"{where}: the split must be train, val or test, got {split[:60]!r}; correct it")
    if not cells["file"]:
        raise DataError(f"{where} names no image; add it, or remove the row")
    texts = [cells[name] for name in CORNERS]
    if all(text.lower() in EMPTY for text in texts):
        return Row(cells["file"], side, None, ())
    corners = _numbers(texts, separator)
    if corners is None:
        raise DataError(
            f"{where}: the corners must be four numbers, or four empty cells for an image without a box, got "
            f"{', '.join(texts)[:60]!r}; correct the row"
        )
    if corners[0] > corners[2] or corners[1] > corners[3]:
        raise DataError(
            f"{where}: the box {', '.join(texts)[:60]} has no width or no height, but less: expected x1, y1, x2, y2 in "
            "pixels; correct the row"
        )
    if cells["label"].lower() in EMPTY:
        raise DataError(f"{where} has a box without a label; add it")
    return Row(cells["file"], side, cells["label"], corners)


def _numbers(texts: list[str], separator: str) -> tuple[float, ...] | None:
    """The numbers, with a decimal comma where another separator is used; None where one is no finite number."""
    try:
        values = tuple(float(text if separator == "," else text.replace(",", ".")) for text in texts)
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
