"""The results of a prediction as files for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from util.base.csv_text import Formatted, csv_lines
from util.base.files import write_atomically
from util.images import ImageFacts
from util.predict.outputs import (
    BOXES_FILE,
    DETECTIONS_FILE,
    EXCLUDED_FILE,
    IMAGE_LIST_FILE,
    IMAGES_FILE,
    OutputSettings,
)
from util.predict.results import ImageResult, boxes_above
from util.predict.survey import Survey

BOX_COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")
KIND_COLUMNS = ("modality", "body_part", "view")  # of images.csv, where there is DICOM

NOTHING_KNOWN = Survey()
# The results and their image ids, from the start each time it is called
Results = Callable[[], Iterator[tuple[int, ImageResult]]]


def write_tables(output: OutputSettings, results: Results, survey: Survey = NOTHING_KNOWN) -> None:
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
    more = _more_columns(survey)
    rows = ((*row, *(more[column](row[1]) for column in more)) for row in _images(results, output))
    _write(output.folder / IMAGES_FILE, csv_lines((*columns, *more), rows))
    if survey.has_dicom:
        found = ((image.file, *_kind(image.facts), image.reason) for image in survey.excluded)
        _write(output.folder / EXCLUDED_FILE, csv_lines(("file", *KIND_COLUMNS, "reason"), found))
    _write(output.folder / IMAGE_LIST_FILE, _image_list(results, output.names))


def _more_columns(survey: Survey) -> dict[str, Callable[[str], str | int]]:
    """Columns that images have in some predictions only: what each says of the image of a name."""
    columns: dict[str, Callable[[str], str | int]] = {}
    none = ImageFacts(0, 0)
    if survey.has_dicom:
        for n, column in enumerate(KIND_COLUMNS):
            columns[column] = lambda name, n=n: _kind(survey.facts.get(name, none))[n]  # type: ignore[misc]
    if survey.rules.orientation == "apply":
        columns["turned_by_tag"] = lambda name: survey.facts.get(name, none).turn
    return columns


def _kind(facts: ImageFacts) -> tuple[str, str, str]:
    return facts.modality or "", facts.body_part or "", facts.view or ""


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
