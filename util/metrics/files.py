"""Files of an evaluation: detections, ground truth and report. Saved detections are evaluated again without a GPU.

Detections are a COCO results file: a list of {"id", "image_id", "category_id", "bbox", "score"} with bbox as
x, y, width, height in pixels of the original image, so pycocotools and other tools read it too.
"""

import gc
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.reading import read_document
from util.base.text import first_few
from util.metrics.coco.overlap import to_xywh
from util.metrics.report.file import FACTS
from util.metrics.tables import Detections, GroundTruth

DETECTIONS = "detections.json.gz"
GROUND_TRUTH = "truth.json.gz"
PER_IMAGE = "per_image.csv"

RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


class DetectionsError(UserError):
    """A detections file that cannot be read or written; the message names the malformed row."""


def save_detections(path: str | Path, detections: Detections) -> None:
    """Write a COCO results file, compressed when `path` ends in .gz, whole or not at all.

    Rows carry a running `id`, which tells equal detections of two queries from a row that was written twice.
    Boxes that come from float32 are read back bit for bit.

    Raises:
        DetectionsError: when a box or a score is not finite or a box has x2 < x1 or y2 < y1; nothing is written.
    """
    xywh = to_xywh(detections.xyxy)
    is_valid = np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] >= 0).all(axis=1) & np.isfinite(detections.score)
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise DetectionsError(
            f"{path}: not written: row {row} (from 0) is no detection: "
            f"xyxy {detections.xyxy[row].tolist()}, score {float(detections.score[row])}"
        )
    rows = [{"id": n, **row} for n, row in enumerate(coco_results(detections), start=1)]
    _write(Path(path), json.dumps(rows, separators=(",", ":")).encode())


def coco_results(detections: Detections) -> list[dict[str, Any]]:
    """The rows of a COCO results file, in the order of the table."""
    columns = (detections.image_id, detections.label, to_xywh(detections.xyxy), detections.score)
    return [dict(zip(RESULT_KEYS, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def load_detections(path: str | Path, images: Iterable[int]) -> Detections:
    """Read a COCO results file as the detections of `images`, the ids of all images that were evaluated.

    Raises:
        DetectionsError: naming the file and the first row (from 0) that is malformed, not finite, on an unknown
            image, or repeated. Rounded boxes of two queries may be equal, so rows without an id are refused only where
            half of them repeat others: such a file was written twice.
    """
    images = tuple(images)
    rows = _read(Path(path))
    columns = _columns(rows, images)
    if columns is None:
        known = set(images)
        problems = ((n, _problem(row, known)) for n, row in enumerate(rows))
        n, problem = next((n, problem) for n, problem in problems if problem)
        raise DetectionsError(f"{path}: row {n} (from 0): {problem}")
    if not _are_distinct(columns):
        _require_written_once(rows, path)
    return columns


def load_image_list(path: Path, truth: GroundTruth) -> list[int]:
    """Read the ids of the images that a file lists, as ids or file names, one per line or as a JSON list.

    Raises:
        UserError: it cannot be read, is empty, or lists an image that is not in `truth`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as text or as a JSON list ({error}); write a name per line") from error
    entries = [str(entry).strip() for entry in entries if str(entry).strip()]
    ids = {**{name: image for image, name in truth.files.items()}, **{str(image): image for image in truth.images}}
    unknown = [entry for entry in entries if entry not in ids]
    if unknown or not entries:
        problem = f"{len(unknown)} entries are not in the ground truth: {first_few(unknown)}" if unknown else "is empty"
        raise UserError(f"{path}: {problem}; write a file name or an id of the ground truth file per line")
    return [ids[entry] for entry in entries]


def _columns(rows: list[Any], images: tuple[int, ...]) -> Detections | None:
    """The rows as a table, all checked at once; None where a row is invalid, which `_problem` then describes."""
    try:
        ids, labels, boxes, scores = ([row[key] for row in rows] for key in RESULT_KEYS)
        numbers = [*chain.from_iterable(boxes), *scores]
    except (KeyError, TypeError, IndexError):
        return None
    kinds: list[tuple[list[Any], set[type]]] = [(rows, {dict}), (ids, {int}), (labels, {int}), (boxes, {list})]
    if any(set(map(type, values)) - allowed for values, allowed in [*kinds, (numbers, {int, float})]) or set(
        map(len, boxes)
    ) - {4}:
        return None
    try:
        xywh, score = (np.array(values, dtype=np.float64) for values in (boxes, scores))
        image_id, label = (np.array(values, dtype=np.int64) for values in (ids, labels))
    except OverflowError:
        return None
    xywh = xywh.reshape(-1, 4)
    is_valid = np.isfinite(xywh).all() and np.isfinite(score).all() and (xywh[:, 2:] >= 0).all()
    if not (is_valid and (label >= 0).all() and np.isin(image_id, images).all()):
        return None
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Detections(images=images, image_id=image_id, label=label, xyxy=xyxy, score=score)


def _are_distinct(detections: Detections) -> bool:
    """Whether no two detections of an image have the same score, so that none can be repeated."""
    order = np.lexsort((detections.score, detections.image_id))
    same = (np.diff(detections.image_id[order]) == 0) & (np.diff(detections.score[order]) == 0)
    return not same.any()


def save_report(
    path: str | Path, values: Mapping[str, float | list[float]], facts: Mapping[str, Any] | None = None
) -> None:
    """Write metrics and intervals as JSON, sorted by key, whole or not at all; `facts` are those of the evaluation.

    Raises:
        ValueError: when a metric is not finite; undefined metrics are to be left out.
    """
    plain = {
        key: [float(v) for v in value] if isinstance(value, list) else float(value)
        for key, value in sorted(values.items())
    }
    bad = [key for key, value in plain.items() if not np.isfinite(value).all()]
    if bad:
        raise ValueError(f"{path}: not written: metrics that are not finite: {', '.join(bad[:5])}")
    content = dict(sorted({**plain, FACTS: facts}.items())) if facts else plain
    _write(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def save_ground_truth(path: str | Path, truth: GroundTruth) -> None:
    """Write a COCO-format annotation file, so that detections can be evaluated again without the data folder."""
    columns = (to_xywh(truth.xyxy), truth.image_id, truth.label, truth.area, truth.is_crowd.astype(int))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    content = {
        "images": [
            {"id": i, "file_name": truth.files[i], "height": truth.sizes[i][0], "width": truth.sizes[i][1]}
            for i in truth.images
        ],
        "categories": [{"id": k, "name": name} for k, name in truth.names.items()],
        "annotations": [
            {"id": n, "bbox": box, "image_id": i, "category_id": k, "area": area, "iscrowd": crowd}
            for n, (box, i, k, area, crowd) in enumerate(rows, start=1)
        ],
    }
    _write(Path(path), json.dumps(content, separators=(",", ":")).encode())


def _write(path: Path, content: bytes) -> None:
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=6, mtime=0)  # the same content gives the same file
    write_atomically(path, lambda file: file.write(content))


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise DetectionsError(f"detections file not found: {path}")
    try:
        rows = _loads(read_document(path))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DetectionsError(f"{path}: cannot be read as JSON, perhaps cut short: {error}") from error
    if not isinstance(rows, list):
        raise DetectionsError(f"{path}: expected a list of detections (a COCO results file), got {_kind(rows)}")
    return rows


def _loads(content: bytes | bytearray) -> Any:
    """JSON without the garbage collector, which would go through millions of new objects again and again."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(content)
    finally:
        if is_enabled:
            gc.enable()


def _problem(row: Any, images: set[int]) -> str | None:
    if not isinstance(row, dict) or any(key not in row for key in RESULT_KEYS):
        return f"expected an object with {', '.join(RESULT_KEYS)}, got {_kind(row)}"
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
        return f"bbox must be four finite numbers x, y, width, height, got {box!r}"
    if box[2] < 0 or box[3] < 0:
        return f"bbox has a negative width or height: {box!r}; it must be x, y, width, height"
    if not _is_finite(row["score"]):
        return f"score must be a finite number, got {row['score']!r}"
    if type(row["category_id"]) is not int or not 0 <= row["category_id"] < 2**63:
        return f"category_id must be a whole number from 0 on, got {row['category_id']!r}"
    if type(row["image_id"]) is not int or row["image_id"] not in images:
        return f"image_id {row['image_id']!r} is none of the {len(images)} images; were they made on another split?"
    return None


def _require_written_once(rows: list[dict[str, Any]], path: str | Path) -> None:
    if len({row["id"] for row in rows if type(row.get("id")) is int}) == len(rows):
        return
    first: dict[tuple, int] = {}
    repeats = []
    for n, row in enumerate(rows):
        content = (row["image_id"], row["category_id"], *row["bbox"], row["score"], str(row.get("id")))
        if first.setdefault(content, n) != n:
            repeats.append((n, first[content]))
    certain = [pair for pair in repeats if "id" in rows[pair[0]]]
    if certain or 2 * len(repeats) >= max(1, len(rows)):
        n, before = (certain or repeats)[0]
        raise DetectionsError(
            f"{path}: row {n} (from 0): the same detection as row {before}; was the file written twice?"
        )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # a NaN is not


def _kind(value: Any) -> str:
    return f"an object with keys {sorted(value)[:6]}" if isinstance(value, dict) else f"a {type(value).__name__}"
