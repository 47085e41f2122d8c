"""The one image reader: a file -> 8-bit pixels, grey or RGB, whatever the file holds.

PNG, TIFF, JPEG and what else Pillow knows; DICOM through pydicom, which is asked for only when a DICOM file is met.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from util.errors import MissingPackage

# 16-bit greyscale; older versions of Pillow open such a PNG in the 32-bit mode "I".
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
# What files that are truncated, damaged, too large, or no images at all make Pillow and pydicom raise: a parser that
# believes a wrong number stumbles anywhere.
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
    Image.DecompressionBombError,
)
DICOM_MARK = (128, b"DICM")  # where it stands, and what
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class ImageFacts:
    """What the header says beside the pixels, for a report; None: it does not say. Never anything about a person."""

    height: int  # pixels
    width: int
    bits: int | None = None  # stored per sample
    photometric: str | None = None  # such as "MONOCHROME1"
    spacing: tuple[float, float] | None = None  # mm between rows, and between columns
    spacing_at: str | None = None  # "patient", or "detector": magnified by the distance between the two
    orientation: tuple[str, str] | None = None  # where rows and columns lead, such as ("L", "F"): left, foot
    view: str | None = None  # such as "PA"


def read_image(path: Path | BytesIO) -> Image.Image:
    """The image at `path`, a file or its content: in mode L where all is grey, whatever the file says, else RGB.

    Transparency is dropped, a palette is looked up, and 16 bits are scaled to 8 by their full range (65535 becomes
    255), so that equal files give equal pixels. A DICOM file becomes what its header says is to be shown:
    `util.dicom`.

    Raises:
        MissingPackage: a DICOM file, and a package to read it is not installed.
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    if is_dicom(path):
        return to_grey(_dicom(path).read_image(path))
    with Image.open(path) as image:
        return as_image(image)


def as_image(image: Image.Image) -> Image.Image:
    """An image of Pillow's in mode L or RGB, by the rules of `read_image`.

    Raises:
        one of UNREADABLE: it has no sensible 8-bit form, or its pixels are still to be read and damaged.
    """
    _check(image)
    if image.mode in DEEP_MODES:
        return to_image(_from_16_bits(image))
    return to_grey(image.convert("L" if image.mode == "L" else "RGB"))


def read_size(path: Path | BytesIO) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone: the pixels may still turn out to be damaged.

    Args:
        path: the file, or its content.

    Raises:
        as `read_image`.
    """
    facts = read_facts(path)
    return facts.height, facts.width


def read_facts(path: Path | BytesIO) -> ImageFacts:
    """What the header says beside the pixels; only DICOM says more than the size.

    Raises:
        as `read_image`.
    """
    if is_dicom(path):
        return _dicom(path).read_facts(path)
    with Image.open(path) as image:
        _check(image)
        return ImageFacts(image.height, image.width)


def is_dicom(path: Path | BytesIO) -> bool:
    """Whether the file says of itself that it is DICOM; its name does not matter."""
    offset, mark = DICOM_MARK
    if isinstance(path, BytesIO):
        return path.getvalue()[offset : offset + len(mark)] == mark
    with path.open("rb") as file:
        return file.read(offset + len(mark))[offset:] == mark


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Grey [h, w] as an image of mode L, colour [h, w, 3] as one of mode RGB."""
    height, width = pixels.shape[:2]
    mode = "RGB" if pixels.ndim == 3 else "L"
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def to_grey(image: Image.Image) -> Image.Image:
    """Mode L of an RGB image whose three channels agree; others as they are."""
    if image.mode == "L":
        return image
    red, green, blue = image.split()
    is_grey = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if is_grey else image


def _dicom(path: Path | BytesIO) -> ModuleType:
    try:
        from util import dicom
    except ImportError as error:
        raise MissingPackage(
            f"{path}: is a DICOM file; to read it the package pydicom is needed: pip install pydicom ({error})"
        ) from error
    return dicom


def _check(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers; save the image with 8 or 16 bits")
    if image.format != "MPO" and hasattr(image, "n_frames") and image.n_frames > 1:  # MPO: a JPEG and its previews
        raise ValueError(f"holds {image.n_frames} pages; save the one that is meant as a file of its own")


def _from_16_bits(image: Image.Image) -> NDArray[np.uint8]:
    """[h, w]: 16 bits, or the 12 that a TIFF may have, scaled to 8 by their full range."""
    top, is_inverted = 65535, False
    if image.format == "TIFF":  # Pillow hands deep pixels on as they are stored
        top = 4095 if image.tag_v2.get(BITS_PER_SAMPLE) == (12,) else top
        is_inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > top:
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits; save with 8 or 16 bits")
    grey = np.round(pixels / (top / 255)).astype(np.uint8)
    return 255 - grey if is_inverted else grey
