"""The rows of a prediction as files that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from util.base.csv_text import Formatted, csv_lines
from util.base.files import write_atomically
from util.predict.rows import Row, corners_from

DETECTIONS = "detections.json"
BOXES = "detections.csv"
IMAGES = "images.csv"
LISTED = "images.json"
TABLES = (DETECTIONS, BOXES, IMAGES, LISTED)
BOX_COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")
IMAGE_COLUMNS = ("image_id", "file_name", "width", "height", "tb_score", "is_positive", "boxes", "picture")

# The rows and their image ids, from the start each time it is called
Rows = Callable[[], Iterator[tuple[int, Row]]]


def write_tables(folder: Path, rows: Rows, names: Mapping[int, str], threshold: float) -> None:
    """All detections as a COCO results file, the boxes that count and the images as CSV, and which id is which file.

    Args:
        folder: where.
        rows: of the images.
        names: of the categories, by id.
        threshold: the score from which on a box counts.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    _write(folder / DETECTIONS, _json_list(_results(rows)))
    _write(folder / BOXES, csv_lines(BOX_COLUMNS, _boxes(rows, names, threshold)))
    _write(folder / IMAGES, csv_lines(IMAGE_COLUMNS, _images(rows, threshold)))
    _write(folder / LISTED, _listed(rows, names))


def _write(path: Path, parts: Iterator[str]) -> None:
    def write(file: IO[bytes]) -> None:
        for part in parts:
            file.write(part.encode("utf-8", errors="backslashreplace"))

    write_atomically(path, write)


def _results(rows: Rows) -> Iterator[dict[str, Any]]:
    number = 0
    for image, row in rows():
        for (x1, y1, x2, y2), label, score in zip(row.boxes, row.labels, row.scores, strict=True):
            number += 1
            box = [x1, y1, x2 - x1, y2 - y1]
            about = {"id": number, "image_id": image, "file_name": row.name}
            yield {**about, "category_id": label, "bbox": box, "score": score}


def _boxes(rows: Rows, names: Mapping[int, str], threshold: float) -> Iterator[tuple]:
    for image, row in rows():
        boxes, labels, scores = corners_from(row, threshold)
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True):
            corners = [Formatted(f"{side:.2f}") for side in box]
            yield image, row.name, label, names.get(label, str(label)), score, *corners


def _images(rows: Rows, threshold: float) -> Iterator[tuple]:
    for image, row in rows():
        (height, width) = row.size
        count = row.num_from(threshold)
        score = "" if row.score is None else row.score
        yield image, row.name, width, height, score, int(count > 0), count, row.picture or ""


def _listed(rows: Rows, names: Mapping[int, str]) -> Iterator[str]:
    images = ({"id": i, "file_name": r.name, "height": r.size[0], "width": r.size[1]} for i, r in rows())
    yield '{"images": '
    yield from _json_list(images)
    categories = json.dumps([{"id": category, "name": name} for category, name in names.items()])
    yield f', "annotations": [], "categories": {categories}}}\n'


def _json_list(items: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + json.dumps(item)
    yield "\n]"
