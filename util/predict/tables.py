"""The results of a prediction as files for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from util.base.csv_text import Formatted, csv_lines
from util.base.files import write_atomically
from util.predict.outputs import BOXES_FILE, DETECTIONS_FILE, IMAGE_LIST_FILE, IMAGES_FILE, OutputSettings
from util.predict.results import ImageResult, boxes_above

BOX_COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")

# The results and their image ids, from the start each time it is called
Results = Callable[[], Iterator[tuple[int, ImageResult]]]


def write_tables(output: OutputSettings, results: Results) -> None:
    """Write all detections in COCO's results format, boxes above the threshold and images as CSV, and the image ids.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    columns = (
        *("image_id", "file_name", "width", "height", output.score_column),
        *("is_positive", "boxes", "picture"),
    )
    _write(output.folder / DETECTIONS_FILE, _json_list(_detections(results)))
    _write(output.folder / BOXES_FILE, csv_lines(BOX_COLUMNS, _boxes(results, output)))
    _write(output.folder / IMAGES_FILE, csv_lines(columns, _images(results, output)))
    _write(output.folder / IMAGE_LIST_FILE, _image_list(results, output.names))


def _write(path: Path, parts: Iterator[str]) -> None:
    def write(file: IO[bytes]) -> None:
        for part in parts:
            file.write(part.encode("utf-8", errors="backslashreplace"))

    write_atomically(path, write)


def _detections(results: Results) -> Iterator[dict[str, Any]]:
    number = 0
    for image, result in results():
        for (x1, y1, x2, y2), label, score in zip(result.boxes, result.labels, result.scores, strict=True):
            number += 1
            box = [x1, y1, x2 - x1, y2 - y1]
            about = {"id": number, "image_id": image, "file_name": result.name}
            yield {**about, "category_id": label, "bbox": box, "score": score}


def _boxes(results: Results, output: OutputSettings) -> Iterator[tuple]:
    for image, result in results():
        boxes, labels, scores = boxes_above(result, output.threshold)
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True):
            corners = [Formatted(f"{side:.2f}") for side in box]
            yield image, result.name, label, output.name_of(label), score, *corners


def _images(results: Results, output: OutputSettings) -> Iterator[tuple]:
    for image, result in results():
        (height, width) = result.size
        count = result.num_above(output.threshold)
        score = "" if result.score is None else result.score
        yield image, result.name, width, height, score, int(count > 0), count, result.picture or ""


def _image_list(results: Results, names: Mapping[int, str]) -> Iterator[str]:
    images = ({"id": i, "file_name": r.name, "height": r.size[0], "width": r.size[1]} for i, r in results())
    yield '{"images": '
    yield from _json_list(images)
    categories = json.dumps([{"id": category, "name": name} for category, name in names.items()])
    yield f', "annotations": [], "categories": {categories}}}\n'


def _json_list(items: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + json.dumps(item)
    yield "\n]"
