"""What was found on each image, a line of a file per image: a prediction that is cut off goes on from there.

The file begins with the settings; images are told apart by name and stamp. Lines are read back one by one, so memory
does not grow with what was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from util.base.errors import UserError
from util.base.files import append, truncate
from util.predict.outputs import FILE

MOST_TOLD = 200  # letters of a setting in a message


@dataclass(frozen=True)
class Row:
    """One image and what was found on it, strongest first."""

    name: str
    stamp: tuple[int, int]  # of the file
    size: tuple[int, int]  # (h, w) pixels
    scores: list[float]
    labels: list[int]  # category ids
    boxes: list[list[float]]  # xyxy pixels of the file, as the network gives them: not clipped
    picture: str | None = None  # path of the picture with boxes, below the output folder
    thumbnail: str | None = None  # a small JPEG, base64

    @property
    def score(self) -> float | None:
        """Of the whole image: that of its strongest box, as an evaluation has it; None without a box."""
        return max(self.scores, default=None)

    def num_from(self, threshold: float) -> int:
        """Boxes of at least a score."""
        return sum(score >= threshold for score in self.scores)

    @property
    def text(self) -> str:
        """The line of the file."""
        return json.dumps(vars(self)) + "\n"


def row_of(name: str, stamp: tuple[int, int], size: tuple[int, int], found: Mapping[str, Tensor]) -> Row:
    """What a detector says about an image.

    Raises:
        FloatingPointError: it says what is no number or no box; the checkpoint or the precision is to blame.
    """
    scores = found["scores"].double().numpy()
    boxes = found["boxes"].double().numpy()
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise FloatingPointError(
            f"{name}: the network answers with numbers that are no box or not finite; try --options amp=off, or "
            "another checkpoint"
        )
    return Row(name, stamp, size, scores.tolist(), found["labels"].tolist(), boxes.tolist())


class RowFile:
    """The file of rows in an output folder.

    Args:
        folder: where it is, or will be.
        settings: plain values on which the rows depend.

    Raises:
        UserError: it was written with other settings, or is no such file.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self._places: dict[str, int] = {}  # name -> where its last row begins, bytes
        self._stamps: dict[str, tuple[int, int]] = {}
        if self.path.is_file() and self.path.stat().st_size:
            self._go_on(settings)
        else:
            append(self.path, json.dumps({"settings": settings}) + "\n")

    def __contains__(self, image: tuple[str, tuple[int, int]]) -> bool:
        """Whether an image, (name, stamp), is done."""
        return self._stamps.get(image[0]) == image[1]

    def __len__(self) -> int:
        """Images that are done."""
        return len(self._places)

    def add(self, rows: list[Row]) -> None:
        """Rows more, handed to the operating system before this returns.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        place = self.path.stat().st_size
        append(self.path, "".join(row.text for row in rows))
        for row in rows:
            self._places[row.name] = place
            self._stamps[row.name] = row.stamp
            place += len(row.text.encode())

    def read(self, names: list[str]) -> Iterator[Row]:
        """The rows of some images, in this order; names without a row are passed over."""
        with self.path.open("rb") as file:
            for name in names:
                if name in self._places:
                    file.seek(self._places[name])
                    yield _row(json.loads(file.readline()))

    def _go_on(self, settings: Mapping[str, Any]) -> None:
        """Take over the rows that are there; a last one that was torn is cut off."""
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
                        row = _row(content)
                        self._places[row.name] = whole
                        self._stamps[row.name] = row.stamp
                except (ValueError, KeyError, TypeError) as error:
                    if isinstance(error, UserError):
                        raise
                    raise UserError(
                        f"{self.path}: line {number + 1} is no row of a prediction; remove all results to begin anew"
                    ) from error
                whole += len(line)
        truncate(self.path, whole)
        if not whole:  # torn in its very first line
            append(self.path, json.dumps({"settings": settings}) + "\n")

    def _require(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(ours))
        changed = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        if changed:
            said = "; ".join(f"{key} {_told(theirs.get(key))} instead of {_told(ours.get(key))}" for key in changed)
            raise UserError(
                f"{self.path}: is of a prediction with {said}. Give the same, choose another --output_dir, or remove "
                "all results there to begin anew"
            )


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}..."


def _row(content: Mapping[str, Any]) -> Row:
    row = Row(**content)
    return Row(**{**vars(row), "stamp": tuple(row.stamp), "size": tuple(row.size)})


def corners_from(row: Row, threshold: float) -> tuple[NDArray[np.float64], list[int], list[float]]:
    """(boxes [n, 4] xyxy clipped to the image, labels, scores) of at least a score."""
    kept = [n for n, score in enumerate(row.scores) if score >= threshold]
    height, width = row.size
    boxes = np.array([row.boxes[n] for n in kept], dtype=np.float64).reshape(-1, 4)
    return (
        boxes.clip(0, np.array([width, height] * 2)),
        [row.labels[n] for n in kept],
        [row.scores[n] for n in kept],
    )
