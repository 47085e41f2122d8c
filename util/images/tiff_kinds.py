"""Name the kind of a TIFF file that Pillow does not read."""

from __future__ import annotations

from typing import IO

from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from util.images.common import UNREADABLE

BITS_PER_SAMPLE = 258
SAMPLES_PER_PIXEL = 277
COMPRESSION = 259


def require_known_tiff(file: IO[bytes]) -> None:
    """Say what a file that Pillow could not identify is, if it is a TIFF.

    Raises:
        ValueError: it is a TIFF of a kind that is not read.
    """
    file.seek(0)
    head = file.read(8)
    if not head.startswith(tuple(PREFIXES)):
        return
    try:
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        bits = tags.get(BITS_PER_SAMPLE, (1,))
        channels = int(tags.get(SAMPLES_PER_PIXEL, len(bits)))
    except UNREADABLE:
        return
    raise ValueError(
        f"is a TIFF file with {channels} channel(s) of {bits[0]} bits in an arrangement that is not read; save it as "
        "PNG, or as TIFF in grey or RGB with 8 or 16 bits"
    )
