"""Shared by the image readers: limits, errors, facts of a header, and 8-bit pixels as an image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from util.images.depth import SampleDepth

MAX_PIXELS = 100_000_000
PIXELS_AT_ONCE = 2**21  # converted together, where a pixel takes several bytes on the way
# Exceptions of Pillow and pydicom for files that are truncated, damaged, too large, or no images at all: a wrong number
# in a file can make a parser fail anywhere.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    MemoryError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageFacts:
    """Facts of an image's header, for a report; None where it does not state them. Never anything about a person."""

    height: int  # pixels
    width: int
    bits: int | None = None  # stored per sample
    photometric: str | None = None  # such as "MONOCHROME1"
    spacing: tuple[float, float] | None = None  # mm between rows, and between columns
    spacing_at: str | None = None  # "patient", or "detector": magnified by the distance between the two
    orientation: tuple[str, str] | None = None  # directions of rows and columns, such as ("L", "F"): left, foot
    view: str | None = None  # such as "PA"
    turn: int = 1  # orientation tag (EXIF) by which viewers turn the image, never a DICOM's; 1: as it is stored
    samples: SampleDepth | None = None  # of 16-bit files other than DICOM
    modality: str | None = None  # such as "DX"
    body_part: str | None = None  # such as "CHEST"
    is_secondary: bool = False  # a secondary capture: what the modality says of it may be anything

    @property
    def is_dicom(self) -> bool:
        """Whether the file is DICOM, which alone states how values become grey levels."""
        return self.photometric is not None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) pixels."""
        return self.height, self.width


def require_few_pixels(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse, by its header, an image that would take too much memory.

    Raises:
        ValueError: it has more than `most` pixels.
    """
    if width * height > most:
        raise ValueError(f"claims {width} x {height} pixels; more than {most} are not read")


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Convert grey [h, w] to an image of mode L, colour [h, w, 3] to one of mode RGB."""
    height, width = pixels.shape[:2]
    mode = "RGB" if pixels.ndim == 3 else "L"
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def to_grey(image: Image.Image) -> Image.Image:
    """Convert an RGB image whose three channels are equal to mode L; others stay as they are."""
    if image.mode == "L":
        return image
    channels = image.split()
    return channels[0] if are_equal(channels) else image


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """Split rows into blocks of PIXELS_AT_ONCE pixels, to bound the memory of a conversion."""
    rows = max(1, PIXELS_AT_ONCE // width)
    yield from (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def are_equal(channels: Sequence[Image.Image]) -> bool:
    """Whether several grey images of one size have the same pixels."""
    width, height = channels[0].size
    for rows in row_blocks(height, width):
        first, *others = (channel.crop((0, rows.start, width, rows.stop)) for channel in channels)
        if any(ImageChops.difference(first, other).getbbox() is not None for other in others):
            return False
    return True
