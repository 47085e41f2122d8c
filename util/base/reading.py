"""Files of strangers: opened only where they are regular, and never read further than a limit."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

PIECE = 2**20  # bytes
# Of zip members. What bz2 and LZMA make of a few bytes cannot be limited: zipfile unpacks all that it has read at once.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LARGEST_DOCUMENT = 2**32  # bytes of an annotation or detections file, unpacked
# JSON shrinks to a tenth or a twentieth. What grows far beyond that was made to fill the memory.
LARGEST_EXPANSION, SMALL = 100, 2**26
# What a damaged archive makes zipfile raise when it is opened
DAMAGED_ARCHIVE = (OSError, zipfile.BadZipFile, ValueError, RuntimeError, ArithmeticError, struct.error)
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(path: Path | str) -> os.stat_result:
    """The status of a regular file, after following links: a FIFO keeps its reader waiting, /dev/zero never ends.

    Raises:
        OSError: there is nothing, or not a regular file; `strerror` says so.
    """
    status = os.stat(path)
    if not is_regular(status):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    return status


def is_regular(status: os.stat_result) -> bool:
    """Whether a status is that of a regular file."""
    return stat.S_ISREG(status.st_mode)


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    size = require_regular(path).st_size
    if size > limit:
        raise _too_large(path, f"has {size} bytes; more than {limit} are not read")
    with path.open("rb") as file:
        return file.read(size + 1)


def read_document(path: Path) -> bytes | bytearray:
    """The content of an annotation or detections file, unpacked where its name ends in .gz.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large; EOFError, zlib.error: as gzip.
    """
    content = read_regular(path, LARGEST_DOCUMENT)
    return unpack_document(content, path) if path.suffix == ".gz" else content


def unpack_document(packed: bytes, path: Path) -> bytearray:
    """What is packed by gzip; `path` is what messages call it.

    Raises:
        OSError: it is no gzip file, or unpacks to too much; EOFError, zlib.error: as gzip.
    """
    limit = min(LARGEST_DOCUMENT, SMALL + LARGEST_EXPANSION * len(packed))
    content = bytearray()
    with gzip.GzipFile(fileobj=BytesIO(packed)) as file:
        while piece := file.read(PIECE):
            content += piece
            if len(content) > limit:
                raise _too_large(path, f"unpacks to more than {limit} bytes")
    return content


def read_member(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo) -> bytes:
    """The content of a file in an archive, never more than the archive's directory states.

    Piece by piece: `ZipFile.read` unpacks everything before it compares the size with the directory.

    Raises:
        zipfile.BadZipFile: it is damaged, packed by another method than deflate, or unpacks to another size.
        RuntimeError: it is encrypted.
    """
    info = member if isinstance(member, zipfile.ZipInfo) else archive.getinfo(member)
    require_known_method(info)
    content = BytesIO()
    try:
        with archive.open(info) as file:
            while (piece := file.read(PIECE)) and content.tell() <= info.file_size:
                content.write(piece)
    except (zlib.error, EOFError) as error:
        raise zipfile.BadZipFile(f"is damaged ({error})") from error
    if content.tell() != info.file_size:
        raise zipfile.BadZipFile(f"unpacks to another size than the {info.file_size} bytes that the archive states")
    return content.getvalue()


def require_known_method(info: zipfile.ZipInfo) -> None:
    """Refuse a file in an archive that is not packed in the usual way.

    Raises:
        zipfile.BadZipFile: it is packed by bz2, LZMA or something unknown.
    """
    if info.compress_type not in METHODS:
        raise zipfile.BadZipFile(f"is packed by method {info.compress_type}, not by deflate; pack it again")


def _too_large(path: Path, reason: str) -> OSError:
    return OSError(errno.EFBIG, reason, str(path))
