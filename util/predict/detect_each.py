"""Detection on a batch such that an image on which it fails costs that image alone.

A batch that fails goes in halves until the image at fault is alone. Whether that image or the network is to blame is
tried with an image on which detection worked before: where that fails now, all others would, and the error is raised.
"""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from util.base.console import remark
from util.base.errors import MissingPackage, UserError
from util.base.files import WriteError
from util.detection.batch import Sample
from util.detection.fusion import Found
from util.images import FORMATS, UNREADABLE

# What reading, detecting or drawing may raise for one image and not for the next
FAILURES = (*UNREADABLE, AssertionError, zipfile.BadZipFile, subprocess.SubprocessError)
FOR_ALL = (MissingPackage, WriteError)  # of these, what no other image would escape
MEMORY_HINT = (
    "does not fit into the memory of the GPU, alone; choose --device cpu, or look at it with a smaller --options "
    "data_eval_scale or --scales"
)
MOST_LETTERS = 300


class Detects(Protocol):
    """What turns images into detections: `models.inference.detector.Detector`, or anything else that keeps to this."""

    def prepare(self, image: Image.Image) -> tuple[Sample, ...]:
        """An RGB image as the network gets it, once per view."""

    def detect(self, images: Sequence[tuple[Sample, ...]]) -> list[Found]:
        """The detections on each image, strongest first, boxes in pixels of the file."""


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an image."""

    reason: str
    error: Exception | None  # None: the file cannot be read, whatever the network does


class EachDetector:
    """A detector that answers for each image of a batch, with a Failure where it fails.

    Args:
        detector: what detects.
    """

    def __init__(self, detector: Detects) -> None:
        self._detector = detector
        self._good: tuple[Sample, ...] | None = None  # an image on which detection worked

    def detect(self, images: Sequence[tuple[Sample, ...]]) -> list[Found | Failure]:
        """The detections on each image, or why there are none.

        Raises:
            Exception: detection fails, and now on an image too on which it worked before.
        """
        try:
            found = self._detector.detect(images)
            self._good = self._good or images[0]
            return list(found)
        except FOR_ALL:
            raise
        except torch.OutOfMemoryError:
            failure = Failure(MEMORY_HINT, UserError(MEMORY_HINT))  # the error itself would hold on to the memory
            told = "do not fit into the memory of the GPU"
        except FAILURES as error:
            failure = Failure(reason_of(error), error)
            told = f"cannot be detected on ({failure.reason})"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(images) == 1:
            self._require_working(failure)
            return [failure]
        remark(f"{len(images)} images at once {told}; they go in halves")
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
    """Why an image failed, in a line, without paths that are told already."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"is no image of a known kind ({', '.join(FORMATS)}, DICOM), or empty"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:MOST_LETTERS] or type(error).__name__
