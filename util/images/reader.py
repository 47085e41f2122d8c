"""The one image reader: a file -> 8-bit pixels, grey or RGB, whatever the file holds.

PNG, TIFF, JPEG and what else Pillow knows; DICOM through pydicom, which is asked for only when a DICOM file is met.
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

from util.base.errors import MissingPackage
from util.base.reading import require_regular
from util.images.common import ImageFacts, _are_equal, require_few_pixels, row_blocks, to_grey, to_image
from util.images.huge_images import HUGE_PIXELS, huge_images_in_turn, take_turn

# Other versions of Pillow may decode a JPEG to other pixels. Raise the number when `util.images.reader` does.
READER_VERSION = f"reader 1, Pillow {PIL.__version__}"

# What Pillow may open, whatever a file is called. Left out are formats that nobody needs here, above all those for
# which Pillow starts another program, such as PostScript. MPO, a JPEG and its previews, counts as JPEG.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
MAX_FILE_BYTES = 2**29  # bytes; 100 million pixels in color have 300 million
MAX_TILE_PIXELS = 2**24  # pixels; a tile of a TIFF may be larger than the image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit

# 16-bit greyscale; older versions of Pillow open such a PNG in the 32-bit mode "I".
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
DICOM_MARK = (128, b"DICM")  # where it stands, and what
# TIFF tags
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
TILE_WIDTH = 322
TILE_LENGTH = 323
WHITE_IS_ZERO = 0


def read_image(path: Path | BytesIO) -> Image.Image:
    """The image at `path`, a file or its content: in mode L where all is grey, whatever the file says, else RGB.

    Transparency is dropped, a palette is looked up, and 16 bits are scaled to 8 by their full range (65535 becomes
    255), so that equal files give equal pixels. A DICOM file becomes what its header says is to be shown:
    `util.images.dicom`.

    Raises:
        MissingPackage: a DICOM file, and a package to read it is not installed.
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    with huge_images_in_turn():
        take_turn(num_bytes=file_size(path))
        return to_grey(_dicom(path).read_image(path) if is_dicom(path) else _decoded(path))


@contextmanager
def open_image(path: Path | BytesIO) -> Iterator[Image.Image]:
    """An image of Pillow's of one of FORMATS, whose pixels are still to be read.

    Raises:
        one of UNREADABLE: it is none of these, has too many pixels, or has no sensible 8-bit form.
    """
    file_size(path)
    with Image.open(path, formats=FORMATS) as image:
        require_few_pixels(image.width, image.height)
        _check(image)
        yield image


def file_size(path: Path | BytesIO) -> int:
    """Bytes of an image file, or of its content.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is larger than any image that is read.
    """
    size = len(path.getbuffer()) if isinstance(path, BytesIO) else require_regular(path).st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size} bytes; more than {MAX_FILE_BYTES} are not read")
    return size


def convert_image(image: Image.Image) -> Image.Image:
    """An image of Pillow's in mode L or RGB, by the rules of `read_image`.

    Raises:
        one of UNREADABLE: it has no sensible 8-bit form, or its pixels are still to be read and damaged.
    """
    _check(image)
    return to_grey(_in_8_bits(image))


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
        with huge_images_in_turn():
            return _dicom(path).read_facts(path)
    with open_image(path) as image:
        return ImageFacts(image.height, image.width)


def is_dicom(path: Path | BytesIO) -> bool:
    """Whether the file says of itself that it is DICOM; its name does not matter.

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
        image.close()  # its pixels are not needed any more
    return channels[0] if _are_equal(channels) else Image.merge("RGB", channels)


def _channels(image: Image.Image) -> list[Image.Image]:
    """Red, green and blue of a huge image, without a second whole image on the way."""
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
    if image.format == "TIFF":
        tile = (image.tag_v2.get(tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH))
        require_few_pixels(*tile, most=max(MAX_TILE_PIXELS, image.width * image.height))
    if image.format != "MPO" and hasattr(image, "n_frames") and image.n_frames > 1:  # MPO: a JPEG and its previews
        raise ValueError(f"holds {image.n_frames} pages; save the one that is meant as a file of its own")


def _from_16_bits(image: Image.Image) -> NDArray[np.uint8]:
    """[h, w]: 16 bits, or the 12 that a TIFF may have, scaled to 8 by their full range."""
    top = 65535
    is_inverted = False
    if image.format == "TIFF":  # Pillow hands deep pixels on as they are stored
        top = 4095 if image.tag_v2.get(BITS_PER_SAMPLE) == (12,) else top
        is_inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for rows in row_blocks(image.height, image.width):
        pixels = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        if pixels.min() < 0 or pixels.max() > top:
            raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits; save with 8 or 16 bits")
        grey[rows] = np.round(pixels / (top / 255)).astype(np.uint8)
    return 255 - grey if is_inverted else grey
