"""Read an image file as 8-bit pixels, grey or RGB.

PNG, TIFF, JPEG and other FORMATS by Pillow; DICOM by pydicom, which is imported at the first DICOM file.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from util.base.errors import MissingPackage
from util.base.memory import give_back_memory
from util.base.reading import require_regular
from util.images.common import ImageFacts, are_equal, require_few_pixels, row_blocks, to_grey, to_image
from util.images.depth import ALONE, ReadingRules, SampleDepth
from util.images.dicom_head import HEAD_BYTES, begins_as_dicom
from util.images.huge_images import HUGE_PIXELS, huge_images_in_turn, take_turn
from util.images.orientation import EXCHANGES_SIDES, loaded_as_stored, orientation_of, turned
from util.images.samples import (
    DEEP_MODES,
    grey_as_one_channel,
    has_deep_samples,
    png_chunks,
    raw_mode,
    read_samples,
    require_one_plane,
    scaled,
    stated_depth,
)
from util.images.tiff_kinds import require_known_tiff

# Other versions of Pillow may decode a JPEG to other pixels. Raise the number when a change of this package does.
READER_VERSION = f"reader 2, Pillow {PIL.__version__}"

# What Pillow may open, whatever a file is called: no format for which it starts another program, such as PostScript.
# MPO, a JPEG and its previews, counts as JPEG.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
MAX_FILE_BYTES = 2**29  # bytes; 100 million pixels in color have 300 million
MAX_TILE_PIXELS = 2**24  # pixels; a tile of a TIFF may be larger than the image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit

DARK = 64  # of 256 grey levels: 16-bit samples whose high byte does not exceed it use 14 bits or fewer
MOST = 65535  # of 16 bits
# TIFF tags
WIDTH = 256
LENGTH = 257
BITS_PER_SAMPLE = 258
TILE_WIDTH = 322
TILE_LENGTH = 323


@dataclass(frozen=True)
class Reading:
    """An image, and what its file says of how to read it."""

    image: Image.Image  # of mode L or RGB
    turn: int = 1  # orientation tag; 1: as stored
    samples: SampleDepth | None = None  # of a 16-bit file other than DICOM


def read_image(path: Path | BytesIO, rules: ReadingRules = ALONE) -> Image.Image:
    """Read an image from a file or its content: in mode L where all pixels are grey, else RGB.

    Transparency is dropped, a palette is looked up, and 16-bit samples are scaled to 8 by the depth that they use, so
    that equal files give equal pixels. `util.images.dicom` states the rules for DICOM files.

    Args:
        path: the file, or its content.
        rules: of the folder of the file; by default it is a folder of its own.

    Raises:
        MissingPackage: a package to read a DICOM file is not installed.
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    return read_with_facts(path, rules).image


def read_with_facts(path: Path | BytesIO, rules: ReadingRules = ALONE) -> Reading:
    """Read an image and, in the same pass, what decides how the files of its folder are read.

    Raises:
        as `read_image`.
    """
    with huge_images_in_turn():
        take_turn(num_bytes=file_size(path))
        if is_dicom(path):
            return Reading(to_grey(_dicom(path).read_image(path)))
        reading = _decoded(path, rules)
        return replace(reading, image=turned(reading.image, reading.turn)) if rules.orientation == "apply" else reading


@contextmanager
def open_image(path: Path | BytesIO) -> Iterator[Image.Image]:
    """Open an image of one of FORMATS by Pillow, which has not read its pixels yet.

    Raises:
        one of UNREADABLE: it is of no such format, has too many pixels, or has no sensible 8-bit form.
    """
    with _opened(path) as (image, _):
        yield image


@contextmanager
def _opened(path: Path | BytesIO) -> Iterator[tuple[Image.Image, dict[bytes, bytes]]]:
    """Open an image by Pillow; of a PNG file also the chunks that state how to read it."""
    file_size(path)
    # Given a name Pillow may map the file into memory, and of an uncompressed TIFF that is to be turned it then mixes
    # up the rows.
    with nullcontext(path) if isinstance(path, BytesIO) else path.open("rb") as file:
        try:
            opened = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            require_known_tiff(file)
            raise
        with opened as image:
            require_few_pixels(image.width, image.height)
            _check(image)
            chunks = png_chunks(image, file)
            if b"eXIf" in chunks:
                image.info.setdefault("exif", b"Exif\0\0" + chunks[b"eXIf"])
            yield image, chunks


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


def convert_image(image: Image.Image, rules: ReadingRules = ALONE) -> Image.Image:
    """Convert an image of Pillow's to mode L or RGB, by the rules of `read_image`; it is taken as it is, not turned.

    Raises:
        one of UNREADABLE: it has no sensible 8-bit form, or its pixels are still to be read and damaged.
    """
    _check(image)
    if image.mode in DEEP_MODES:
        return to_image(scaled(read_samples(image, None, lambda: nullcontext(image)), rules)[0])
    is_cut = has_deep_samples(image)
    converted = to_grey(_in_8_bits(loaded_as_stored(image)))
    return _require_bright(converted) if is_cut else converted


def read_size(path: Path | BytesIO, rules: ReadingRules = ALONE) -> tuple[int, int]:
    """Read (height, width) in pixels from the header alone: the pixels may still turn out to be damaged.

    Args:
        path: the file, or its content.
        rules: of its folder.

    Raises:
        as `read_image`.
    """
    facts = read_facts(path)
    is_exchanged = rules.orientation == "apply" and facts.turn in EXCHANGES_SIDES
    return (facts.width, facts.height) if is_exchanged else (facts.height, facts.width)


def read_facts(path: Path | BytesIO) -> ImageFacts:
    """Read the facts of the header, of pixels as they are stored.

    Raises:
        as `read_image`.
    """
    if is_dicom(path):
        with huge_images_in_turn():
            return _dicom(path).read_facts(path)
    with _opened(path) as (image, chunks):
        width, height = _stored_size(image)
        return ImageFacts(height, width, turn=orientation_of(image), samples=stated_depth(image, chunks))


def is_dicom(path: Path | BytesIO) -> bool:
    """Whether the content of a file is DICOM; its name does not matter.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    if isinstance(path, BytesIO):
        return begins_as_dicom(bytes(path.getbuffer()[:HEAD_BYTES]))
    require_regular(path)
    with path.open("rb") as file:
        return begins_as_dicom(file.read(HEAD_BYTES))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height); of a TIFF that is to be turned newer versions of Pillow state them turned."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[WIDTH], image.tag_v2[LENGTH]
    return image.size


def _decoded(path: Path | BytesIO, rules: ReadingRules) -> Reading:
    with _opened(path) as (image, chunks):
        take_turn(pixels=image.width * image.height)
        turn = orientation_of(image)
        if has_deep_samples(image):
            facts = stated_depth(image, chunks)
            stated = facts.stated if facts else None
            samples = read_samples(image, stated, partial(open_image, path))
            pixels, highest = scaled(samples, rules)
            del samples  # they take more memory than the pixels
            if pixels.size > HUGE_PIXELS:
                give_back_memory()
            return Reading(to_image(grey_as_one_channel(pixels)), turn, facts and replace(facts, highest=highest))
        is_cut = _is_cut(image)
        stored = loaded_as_stored(image)
    del image  # its pixels are not needed any more
    if stored.width * stored.height <= HUGE_PIXELS or stored.mode == "L":
        eight = to_grey(_in_8_bits(stored))
    else:
        channels = _channels(stored)
        del stored
        eight = channels[0] if are_equal(channels) else Image.merge("RGB", channels)
    return Reading(_require_bright(eight) if is_cut else eight, turn)


def _is_cut(image: Image.Image) -> bool:
    """Whether Pillow cuts deep colour, of kinds that only few programs write, to 8 bits."""
    arguments = image.tile[0][3] if isinstance(image, PpmImageFile) and image.mode == "RGB" else None
    return ";16" in raw_mode(image) or (isinstance(arguments, tuple) and MOST in arguments)


def _require_bright(image: Image.Image) -> Image.Image:
    if np.max(image.getextrema()) <= DARK:
        raise ValueError(
            "has 16-bit colour of which at most 14 bits are used, and only 8 can be read from this kind of file: save "
            "it as PNG, and give the path of the file"
        )
    return image


def _channels(image: Image.Image) -> list[Image.Image]:
    """Red, green and blue of a huge image, converted without a second whole image in memory."""
    channels = [Image.new("L", image.size) for _ in "RGB"]
    for rows in row_blocks(image.height, image.width):
        block = image.crop((0, rows.start, image.width, rows.stop)).convert("RGB")
        for channel, part in zip(channels, block.split(), strict=True):
            channel.paste(part, (0, rows.start))
    return channels


def _in_8_bits(image: Image.Image) -> Image.Image:
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
        require_one_plane(image)
    if image.format != "MPO" and hasattr(image, "n_frames") and image.n_frames > 1:  # MPO: a JPEG and its previews
        raise ValueError(f"holds {image.n_frames} pages; save the one that is meant as a file of its own")
