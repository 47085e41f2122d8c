"""Samples of 16 bits, which Pillow cuts to their high byte in colour, scaled to 8 bits by the depth of the folder.

Pillow unpacks 16-bit colour by taking one of the two bytes, and which one depends on the byte order it is given. So the
pixels are decoded twice, once per order, and put together.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from util.images.common import row_blocks
from util.images.depth import CONTAINER, DEPTHS, ReadingRules, SampleDepth
from util.images.orientation import loaded_as_stored

# 16-bit greyscale; older versions of Pillow open such a PNG in the 32-bit mode "I".
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
GREY_WITH_ALPHA = "LA;16B"  # of PNG files; its four bytes are those of an RGBA image
# TIFF tags
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
MAX_SAMPLE_VALUE = 281
PLANES = 284
WHITE_IS_ZERO = 0
SEPARATE_PLANES = 2
PACKED_BITS = 12  # of the only TIFF files between 8 and 16 bits that Pillow reads; they use all of them
# PNG files
PNG_HEAD = 8  # bytes before the first chunk
MOST_CHUNKS = 2**17
LARGEST_CHUNK = 2**20  # bytes of a chunk of facts

Rows = Callable[[slice], NDArray]  # values [n, w] or [n, w, 3] of some rows
Reopen = Callable[[], AbstractContextManager[Image.Image]]


@dataclass(frozen=True)
class Samples:
    """The samples of an image before they are scaled to 8 bits."""

    size: tuple[int, int]  # (h, w)
    rows: Rows
    stated: int | None = None  # bits that the header says the samples use
    is_packed: bool = False  # of PACKED_BITS
    is_inverted: bool = False  # white is zero
    buffer: NDArray[np.uint8] | None = None  # takes the place of the scaled pixels; its rows are read before


def has_deep_samples(image: Image.Image) -> bool:
    """Whether an opened image has samples of 16 bits, or of the 12 that a TIFF may have."""
    return image.mode in DEEP_MODES or _is_deep_colour(image)


def stated_depth(image: Image.Image, chunks: dict[bytes, bytes]) -> SampleDepth | None:
    """What the header of an opened image says of its 16-bit samples; None where it has others.

    Args:
        image: opened by Pillow.
        chunks: of a PNG file, from `png_chunks`.
    """
    if not has_deep_samples(image) or _is_packed(image):
        return None
    stated = 0
    if isinstance(image, TiffImageFile):
        highest = image.tag_v2.get(MAX_SAMPLE_VALUE, 0)
        most = int(max(highest) if isinstance(highest, tuple) else highest)
        # Many programs write the highest value of that one file, and 65535 is the default of the tag.
        stated = most.bit_length() if most & (most + 1) == 0 and most.bit_length() != CONTAINER else 0
    elif bits := chunks.get(b"sBIT"):
        stated = max(bits[:3] if len(bits) > 2 else bits[:1])  # without those of transparency
    return SampleDepth(max(stated, DEPTHS[0]) if 0 < stated <= CONTAINER else None)


def read_samples(image: Image.Image, stated: int | None, reopen: Reopen) -> Samples:
    """The samples of an opened image that `has_deep_samples`.

    Args:
        image: opened by Pillow.
        stated: bits that its header says they use.
        reopen: opens it again; of colour `image` itself stays unread.
    """
    if image.mode in DEEP_MODES:
        is_inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
        grey = loaded_as_stored(image)
        return Samples(
            (grey.height, grey.width), lambda rows: _block(grey, rows), stated, _is_packed(image), is_inverted
        )
    raw = raw_mode(image)
    if raw == GREY_WITH_ALPHA:
        both = _bytes(reopen, "RGBA", 2)
        return Samples(both.shape[:2], lambda rows: _joined(both[rows, :, 0], both[rows, :, 1]), stated)
    is_big = sys.byteorder == "big" if raw.endswith("N") else raw.endswith("B")
    kind = raw[:-1].replace("RGBa", "RGBA")
    high = _bytes(reopen, f"{kind}{'B' if is_big else 'L'}", 3)
    with reopen() as again:
        low = _unpacked(again, f"{kind}{'L' if is_big else 'B'}")
    return Samples(high.shape[:2], lambda rows: _joined(high[rows], _block(low, rows)[..., :3]), stated, buffer=high)


def scaled(samples: Samples, rules: ReadingRules) -> tuple[NDArray[np.uint8], int]:
    """Scale samples to 8 bits, so that the highest value of the depth becomes 255; the pixels and the highest value.

    Args:
        samples: of an image.
        rules: the bits they use; higher values become white. Without a depth: as the header states, else as many as
            they need.

    Raises:
        ValueError: they do not fit 16 bits.
    """
    most = (1 << (PACKED_BITS if samples.is_packed else CONTAINER)) - 1
    height, width = samples.size
    blocks = list(row_blocks(height, width if samples.buffer is None else 3 * width))
    ends = [(values.min(), values.max()) for values in map(samples.rows, blocks)]
    lowest = min(low for low, _ in ends)
    highest = max(high for _, high in ends)
    if lowest < 0 or highest > most:
        raise ValueError(f"pixels from {lowest} to {highest} do not fit 16 bits; save with 8 or 16 bits")
    used = (
        PACKED_BITS
        if samples.is_packed
        else rules.depth or SampleDepth(samples.stated, int(highest)).alone(rules.usual)
    )
    top = (1 << used) - 1
    pixels = np.empty(samples.size, dtype=np.uint8) if samples.buffer is None else samples.buffer
    levels = np.round(np.minimum(np.arange(int(highest) + 1), top) / (top / 255)).astype(np.uint8)
    for rows in blocks:
        pixels[rows] = levels[samples.rows(rows)]
    return 255 - pixels if samples.is_inverted else pixels, int(highest)


def require_one_plane(image: Image.Image) -> None:
    """Refuse an opened image with deep channels in planes of their own, of which Pillow mixes up the bytes.

    Raises:
        ValueError: it is such a TIFF.
    """
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PLANES) == SEPARATE_PLANES:
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
        if len(bits) > 1 and max(bits) > 8:
            raise ValueError("holds 16-bit colour in separate planes; save it with interleaved channels, or as PNG")


def grey_as_one_channel(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce colour [h, w, 3] of equal channels to [h, w]; others stay as they are."""
    blocks = row_blocks(*pixels.shape[:2])
    is_grey = pixels.ndim == 3 and all((pixels[rows] == pixels[rows, :, :1]).all() for rows in blocks)
    return np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels


def raw_mode(image: Image.Image) -> str:
    """How the samples stand in the file, in Pillow's words, such as "RGB;16B"; empty where there is none to read."""
    if not isinstance(image, ImageFile) or not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def png_chunks(image: Image.Image, file: IO[bytes]) -> dict[bytes, bytes]:
    """The chunks sBIT and eXIf of an opened PNG file, which may stand behind the pixels; empty for other formats."""
    found: dict[bytes, bytes] = {}
    if not isinstance(image, PngImageFile):
        return found
    before = file.tell()
    file.seek(PNG_HEAD)
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"sBIT", b"eXIf") and length <= LARGEST_CHUNK:
            found[kind] = file.read(length)
            length = 0
        file.seek(length + 4, 1)
    file.seek(before)
    return found


def _is_deep_colour(image: Image.Image) -> bool:
    return ";16" in raw_mode(image) and image.mode in ("RGB", "RGBA")


def _is_packed(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (PACKED_BITS,)


def _bytes(reopen: Reopen, raw: str, channels: int) -> NDArray[np.uint8]:
    """The first channels [h, w, c] of a file, unpacked in another way; no other copy stays in memory."""
    with reopen() as image:
        loaded = _unpacked(image, raw)
        pixels = np.empty((loaded.height, loaded.width, channels), dtype=np.uint8)
        for rows in row_blocks(loaded.height, loaded.width):
            pixels[rows] = _block(loaded, rows)[..., :channels]
    return pixels


def _unpacked(image: Image.Image, raw: str) -> Image.Image:
    """The pixels of an opened image, unpacked in another way."""
    assert isinstance(image, ImageFile)
    tiles: list[Any] = []
    for tile in image.tile:
        changed = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        # older versions of Pillow have plain tuples
        tiles.append(tile._replace(args=changed) if hasattr(tile, "_replace") else (*tile[:3], changed))
    image.tile = tiles
    return loaded_as_stored(image)


def _block(image: Image.Image, rows: slice) -> NDArray:
    return np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _joined(high: NDArray, low: NDArray) -> NDArray:
    return high.astype(np.uint16) * 256 + low
