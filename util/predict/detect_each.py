"""Detection on a batch in which an image that fails does not fail the others.

A batch that fails is split in halves until the image at fault is alone. Then an image on which detection worked before
is tried again: where that fails too, the network is at fault, and the error is raised.
"""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from util.base.console import print_note
from util.base.errors import MissingPackage, UserError
from util.base.files import WriteError
from util.detection.batch import Sample
from util.detection.fusion import ImageDetections
from util.images import FORMATS, UNREADABLE

# What reading, detecting or drawing may raise for one image and not for the next
FAILURES = (*UNREADABLE, AssertionError, zipfile.BadZipFile, subprocess.SubprocessError)
FOR_ALL = (MissingPackage, WriteError)  # errors that all other images would raise too
MEMORY_HINT = (
    "does not fit into the memory of the GPU, alone; choose --device cpu, or a smaller --options "
    "data_eval_scale or --scales"
)
MOST_LETTERS = 300


class ImageDetector(Protocol):
    """What turns images into detections, such as `models.inference.detector.Detector`."""

    def prepare(self, image: Image.Image) -> tuple[Sample, ...]:
        """Turn an RGB image into the input of the network, once per view."""

    def detect(self, images: Sequence[tuple[Sample, ...]]) -> list[ImageDetections]:
        """Detect on each image; strongest first, boxes in pixels of the file."""


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an image."""

    reason: str
    error: Exception | None  # None: the file cannot be read, whatever the network does


class TolerantDetector:
    """A detector that returns a Failure for an image on which it fails, and detections for the others.

    Args:
        detector: what detects.
    """

    def __init__(self, detector: ImageDetector) -> None:
        self._detector = detector
        self._good: tuple[Sample, ...] | None = None  # an image on which detection worked

    def detect(self, images: Sequence[tuple[Sample, ...]]) -> list[ImageDetections | Failure]:
        """Detect on each image.

        Raises:
            Exception: detection fails, and now also on an image on which it worked before.
        """
        try:
            detections = self._detector.detect(images)
            self._good = self._good or images[0]
            return list(detections)
        except FOR_ALL:
            raise
        except torch.OutOfMemoryError:
            failure = Failure(MEMORY_HINT, UserError(MEMORY_HINT))  # the error itself would keep the memory in use
            problem = "do not fit into the memory of the GPU"
        except FAILURES as error:
            failure = Failure(reason_of(error), error)
            problem = f"cannot be detected on ({failure.reason})"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(images) == 1:
            self._require_working(failure)
            return [failure]
        print_note(f"{len(images)} images at once {problem}; trying halves")
        half = len(images) // 2
        return self.detect(images[:half]) + self.detect(images[half:])

    def _require_working(self, failure: Failure) -> None:
        if self._good is None:
            return
        try:
            self._detector.detect([self._good])
        except FAILURES as error:
            raise failure.error or error from error


def reason_of(error: BaseException) -> str:
    """Why an image failed, in a line, without the path."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"is no image of a known kind ({', '.join(FORMATS)}, DICOM), or empty"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:MOST_LETTERS] or type(error).__name__
