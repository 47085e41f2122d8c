"""Limits for DICOM files, so that pydicom unpacks, allocates and parses no more than an image takes.

A small file can state, or unpack to, gigabytes in several places: the deflated transfer syntax, the sequences and
values of its header, and compressed pixels that are larger than Rows and Columns say. Each is checked before pydicom
processes it. Needs no pydicom; `util.images.dicom` calls the checks.
"""

from __future__ import annotations

import io
import struct
import zlib
from itertools import pairwise

from util.base.reading import CHUNK
from util.images.dicom_head import MARK, PREAMBLE
from util.images.huge_images import HUGE_BYTES, take_turn

MAX_DATA_BYTES = 2**28  # bytes, unpacked: 100 million pixels of 16 bits, and a header
MAX_ELEMENT_BYTES = 2**20  # bytes of one element of the header; a table of 65536 entries has 131,072
MAX_READS = 100_000  # calls of read for one file; every element and every item of a sequence takes one
META_GROUP = 2  # of these elements
START_OF_IMAGE = b"\xff\xd8"  # JPEG and JPEG-LS
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, and SOF55 of JPEG-LS
MAX_SEGMENTS = 15  # parts of a frame in RLE
MAX_RUN = 128


class RefusedDicom(ValueError):  # noqa: N818 the message names the reason
    """A DICOM file that is damaged, or holds no image that can be used."""


class CountedReads(io.BufferedReader):
    """A file with a limited number of calls of `read`: each may become a Python object of a kilobyte."""

    name = ""  # pydicom reads it; the content of a file has none
    num_reads = 0

    def __init__(self, raw: io.RawIOBase | io.BytesIO) -> None:
        super().__init__(raw)
        if self.seek(0, io.SEEK_END) > MAX_DATA_BYTES:
            raise RefusedDicom(f"has {self.tell()} bytes; more than {MAX_DATA_BYTES} are not read")
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes, and count the call."""
        self.num_reads += 1
        if self.num_reads > MAX_READS:
            raise RefusedDicom(f"has more than {MAX_READS} elements, items or fragments; export it as PNG")
        return super().read(size)


def inflated(file: io.BufferedReader, syntax: str) -> io.BytesIO:
    """Inflate the data set that begins at the position of `file`, as a file of its own.

    Args:
        file: deflated.
        syntax: transfer syntax of the inflated file.

    Raises:
        RefusedDicom: it is damaged, or unpacks to too much.
    """
    content = io.BytesIO()
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    content.write(bytes(PREAMBLE) + MARK + struct.pack("<HH2sH", META_GROUP, 0x10, b"UI", len(uid)) + uid)
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    while not engine.eof:
        piece = engine.unconsumed_tail or file.read1(CHUNK // 16)
        if not piece:
            raise RefusedDicom("its deflated part ends too early; copy the file again")
        content.write(engine.decompress(piece, CHUNK))
        if content.tell() > MAX_DATA_BYTES:
            raise RefusedDicom(f"unpacks to more than {MAX_DATA_BYTES} bytes; those are not read")
        if content.tell() > HUGE_BYTES >= content.tell() - CHUNK:
            take_turn(num_bytes=content.tell())
    content.seek(0)
    return content


def require_same_size(frame: bytes, rows: int, columns: int) -> None:
    """Refuse a compressed image of another size than the header states.

    Raises:
        RefusedDicom: the sizes differ, or the image states none.
    """
    size = _codestream_size(frame)
    if size != (rows, columns):
        content = "an image of unknown size" if size is None else f"one of {size[1]} x {size[0]}"
        raise RefusedDicom(f"states an image of {columns} x {rows} pixels, but holds {content}; export it as PNG")


def require_short_runs(frame: bytes, num_pixels: int) -> None:
    """Refuse RLE that unpacks to more bytes than pixels; two bytes of it may become 128.

    Raises:
        RefusedDicom: it unpacks to more.
    """
    count = min(struct.unpack_from("<I", frame)[0], MAX_SEGMENTS)
    starts = [*struct.unpack_from(f"<{count}I", frame, 4), len(frame)]
    for start, end in pairwise(starts):
        place = start
        length = 0
        while place < end:
            run = frame[place]
            place += 2 + run if run < 128 else 1 if run == 128 else 2
            length += run + 1 if run < 128 else 0 if run == 128 else 257 - run
            if length > num_pixels + MAX_RUN:
                raise RefusedDicom(f"a part of its pixels unpacks to more than {num_pixels} bytes; export it as PNG")


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) in the header of a JPEG, JPEG-LS or JPEG 2000 image; None where it has none."""
    if frame.startswith(START_OF_IMAGE):
        return _jpeg_size(frame)
    start = frame.find(START_OF_CODESTREAM)  # in its file format boxes come first
    if start < 0 or len(frame) < start + 24:
        return None
    width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
    return height - top, width - left


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    place = len(START_OF_IMAGE)
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in FRAME_MARKERS:
            return struct.unpack_from(">HH", frame, place + 5)
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # filling, or a marker without a length
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + struct.unpack_from(">H", frame, place + 2)[0]
    return None
