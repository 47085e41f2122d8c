"""Detections of each image, a line of a file per image, from which an interrupted prediction resumes.

The file begins with the settings; images are identified by name and stamp. Lines are read back one by one, so memory
does not grow with the number of detections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from util.base.errors import UserError
from util.base.files import append, truncate
from util.detection.fusion import ImageDetections
from util.predict.outputs import PROGRESS_FILE

MOST_LETTERS = 200  # of a setting in a message


@dataclass(frozen=True)
class ImageResult:
    """One image and its detections, strongest first."""

    name: str
    stamp: tuple[int, int]  # of the file
    size: tuple[int, int]  # (h, w) pixels
    scores: list[float]
    labels: list[int]  # category ids
    boxes: list[list[float]]  # xyxy pixels of the file, not clipped
    picture: str | None = None  # path of the image with boxes, below the output folder
    thumbnail: str | None = None  # a small JPEG, base64

    @property
    def score(self) -> float | None:
        """The image score, that of the strongest box, as in an evaluation; None without a box."""
        return max(self.scores, default=None)

    def num_above(self, threshold: float) -> int:
        """The number of boxes with at least that score."""
        return sum(score >= threshold for score in self.scores)

    @property
    def text(self) -> str:
        """The line of the file."""
        return json.dumps(vars(self)) + "\n"


def make_result(name: str, stamp: tuple[int, int], size: tuple[int, int], detections: ImageDetections) -> ImageResult:
    """The result of an image from the output of a detector.

    Raises:
        FloatingPointError: a score or box is not finite, or no box; the checkpoint or the precision is to blame.
    """
    scores = detections["scores"].double().numpy()
    boxes = detections["boxes"].double().numpy()
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise FloatingPointError(
            f"{name}: the network gives boxes or scores that are not finite or no boxes; try --options amp=off, or "
            "another checkpoint"
        )
    return ImageResult(name, stamp, size, scores.tolist(), detections["labels"].tolist(), boxes.tolist())


class ResultFile:
    """The file of results in an output folder; one that exists is continued.

    Args:
        folder: the output folder.
        settings: plain values on which the results depend.

    Raises:
        UserError: the file was written with other settings, or is of another kind.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / PROGRESS_FILE
        self._offsets: dict[str, int] = {}  # name -> start of its last line, bytes
        self._stamps: dict[str, tuple[int, int]] = {}
        if self.path.is_file() and self.path.stat().st_size:
            self._resume(settings)
        else:
            append(self.path, json.dumps({"settings": settings}) + "\n")

    def __contains__(self, image: tuple[str, tuple[int, int]]) -> bool:
        """Whether an image, (name, stamp), is done."""
        return self._stamps.get(image[0]) == image[1]

    def __len__(self) -> int:
        """Images that are done."""
        return len(self._offsets)

    def add(self, results: list[ImageResult]) -> None:
        """Append results; they are handed to the operating system before this returns.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        offset = self.path.stat().st_size
        append(self.path, "".join(result.text for result in results))
        for result in results:
            self._remember(result, offset)
            offset += len(result.text.encode())

    def read(self, names: list[str]) -> Iterator[ImageResult]:
        """The results of some images, in this order; names without one are skipped."""
        with self.path.open("rb") as file:
            for name in names:
                if name in self._offsets:
                    file.seek(self._offsets[name])
                    yield _result(json.loads(file.readline()))

    def _remember(self, result: ImageResult, offset: int) -> None:
        self._offsets[result.name] = offset
        self._stamps[result.name] = result.stamp

    def _resume(self, settings: Mapping[str, Any]) -> None:
        """Read the results that are there; an incomplete last line is cut off."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    content = json.loads(line)
                    if number == 0:
                        self._require(content["settings"], settings)
                    else:
                        self._remember(_result(content), whole)
                except (ValueError, KeyError, TypeError) as error:
                    if isinstance(error, UserError):
                        raise
                    raise UserError(
                        f"{self.path}: line {number + 1} is no result of a prediction; remove all results to restart"
                    ) from error
                whole += len(line)
        truncate(self.path, whole)
        if not whole:  # incomplete in its first line
            append(self.path, json.dumps({"settings": settings}) + "\n")

    def _require(self, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        given = json.loads(json.dumps(settings))
        changed = [key for key in {**stored, **given} if stored.get(key) != given.get(key)]
        if changed:
            pairs = ((key, _shortened(stored.get(key)), _shortened(given.get(key))) for key in changed)
            changes = "; ".join(f"{key} {before} instead of {now}" for key, before, now in pairs)
            raise UserError(
                f"{self.path}: is of a prediction with {changes}. Give the same, choose another --output_dir, or "
                "remove all results there to restart"
            )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def _result(content: Mapping[str, Any]) -> ImageResult:
    return ImageResult(**{**content, "stamp": tuple(content["stamp"]), "size": tuple(content["size"])})


def boxes_above(result: ImageResult, threshold: float) -> tuple[NDArray[np.float64], list[int], list[float]]:
    """(boxes [n, 4] xyxy clipped to the image, labels, scores) of boxes with at least that score."""
    kept = [n for n, score in enumerate(result.scores) if score >= threshold]
    height, width = result.size
    boxes = np.array([result.boxes[n] for n in kept], dtype=np.float64).reshape(-1, 4)
    return (
        boxes.clip(0, np.array([width, height] * 2)),
        [result.labels[n] for n in kept],
        [result.scores[n] for n in kept],
    )
