"""Read an image file as 8-bit pixels, grey or RGB.

PNG, TIFF, JPEG and other FORMATS by Pillow; DICOM by pydicom, which is imported at the first DICOM file.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from util.base.errors import MissingPackage
from util.base.reading import require_regular
from util.images.common import ImageFacts, are_equal, require_few_pixels, row_blocks, to_grey, to_image
from util.images.huge_images import HUGE_PIXELS, huge_images_in_turn, take_turn

# Other versions of Pillow may decode a JPEG to other pixels. Raise the number when a change of this package does.
READER_VERSION = f"reader 1, Pillow {PIL.__version__}"

# What Pillow may open, whatever a file is called: no format for which it starts another program, such as PostScript.
# MPO, a JPEG and its previews, counts as JPEG.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
MAX_FILE_BYTES = 2**29  # bytes; 100 million pixels in color have 300 million
MAX_TILE_PIXELS = 2**24  # pixels; a tile of a TIFF may be larger than the image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit

# 16-bit greyscale; older versions of Pillow open such a PNG in the 32-bit mode "I".
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
DICOM_MARK = (128, b"DICM")  # offset, and bytes
# TIFF tags
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
TILE_WIDTH = 322
TILE_LENGTH = 323
WHITE_IS_ZERO = 0


def read_image(path: Path | BytesIO) -> Image.Image:
    """Read an image from a file or its content: in mode L where all pixels are grey, else RGB.

    Transparency is dropped, a palette is looked up, and 16 bits are scaled to 8 by their full range (65535 becomes
    255), so that equal files give equal pixels. `util.images.dicom` states the rules for DICOM files.

    Raises:
        MissingPackage: a package to read a DICOM file is not installed.
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    with huge_images_in_turn():
        take_turn(num_bytes=file_size(path))
        return to_grey(_dicom(path).read_image(path) if is_dicom(path) else _decoded(path))


@contextmanager
def open_image(path: Path | BytesIO) -> Iterator[Image.Image]:
    """Open an image of one of FORMATS by Pillow, which has not read its pixels yet.

    Raises:
        one of UNREADABLE: it is of no such format, has too many pixels, or has no sensible 8-bit form.
    """
    file_size(path)
    with Image.open(path, formats=FORMATS) as image:
        require_few_pixels(image.width, image.height)
        _check(image)
        yield image


def file_size(path: Path | BytesIO) -> int:
    """Number of bytes of an image file, or of its content.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is larger than any image that is read.
    """
    size = len(path.getbuffer()) if isinstance(path, BytesIO) else require_regular(path).st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size} bytes; more than {MAX_FILE_BYTES} are not read")
    return size


def convert_image(image: Image.Image) -> Image.Image:
    """Convert an image of Pillow's to mode L or RGB, by the rules of `read_image`.

    Raises:
        one of UNREADABLE: it has no sensible 8-bit form, or its pixels are still to be read and damaged.
    """
    _check(image)
    return to_grey(_in_8_bits(image))


def read_size(path: Path | BytesIO) -> tuple[int, int]:
    """Read (height, width) in pixels from the header alone: the pixels may still turn out to be damaged.

    Args:
        path: the file, or its content.

    Raises:
        as `read_image`.
    """
    facts = read_facts(path)
    return facts.height, facts.width


def read_facts(path: Path | BytesIO) -> ImageFacts:
    """Read the facts of the header; only that of DICOM states more than the size.

    Raises:
        as `read_image`.
    """
    if is_dicom(path):
        with huge_images_in_turn():
            return _dicom(path).read_facts(path)
    with open_image(path) as image:
        return ImageFacts(image.height, image.width)


def is_dicom(path: Path | BytesIO) -> bool:
    """Whether the content of a file is DICOM; its name does not matter.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    offset, mark = DICOM_MARK
    if isinstance(path, BytesIO):
        return path.getvalue()[offset : offset + len(mark)] == mark
    require_regular(path)
    with path.open("rb") as file:
        return file.read(offset + len(mark))[offset:] == mark


def _decoded(path: Path | BytesIO) -> Image.Image:
    with open_image(path) as image:
        take_turn(pixels=image.width * image.height)
        if image.width * image.height <= HUGE_PIXELS or image.mode in ("L", *DEEP_MODES):
            return to_grey(_in_8_bits(image))
        channels = _channels(image)
    del image  # its pixels are not needed any more
    return channels[0] if are_equal(channels) else Image.merge("RGB", channels)


def _channels(image: Image.Image) -> list[Image.Image]:
    """Red, green and blue of a huge image, converted without a second whole image in memory."""
    channels = [Image.new("L", image.size) for _ in "RGB"]
    for rows in row_blocks(image.height, image.width):
        block = image.crop((0, rows.start, image.width, rows.stop)).convert("RGB")
        for channel, part in zip(channels, block.split(), strict=True):
            channel.paste(part, (0, rows.start))
    return channels


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        return to_image(_from_16_bits(image))
    return image.convert("L" if image.mode == "L" else "RGB")


def _dicom(path: Path | BytesIO) -> ModuleType:
    try:
        from util.images import dicom
    except ImportError as error:
        raise MissingPackage(
            f"{path}: is a DICOM file; to read it the package pydicom is needed: pip install pydicom ({error})"
        ) from error
    return dicom


def _check(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers; save the image with 8 or 16 bits")
    if isinstance(image, TiffImageFile):
        width, height = (image.tag_v2.get(tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH))
        require_few_pixels(width, height, most=max(MAX_TILE_PIXELS, image.width * image.height))
    if image.format != "MPO" and hasattr(image, "n_frames") and image.n_frames > 1:  # MPO: a JPEG and its previews
        raise ValueError(f"holds {image.n_frames} pages; save the one that is meant as a file of its own")


def _from_16_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scale pixels [h, w] of 16 bits, or of the 12 that a TIFF may have, to 8 bits by their full range."""
    top = 65535
    is_inverted = False
    if isinstance(image, TiffImageFile):  # Pillow returns deep pixels as they are stored
        top = 4095 if image.tag_v2.get(BITS_PER_SAMPLE) == (12,) else top
        is_inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for rows in row_blocks(image.height, image.width):
        pixels = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        if pixels.min() < 0 or pixels.max() > top:
            raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits; save with 8 or 16 bits")
        grey[rows] = np.round(pixels / (top / 255)).astype(np.uint8)
    return 255 - grey if is_inverted else grey
