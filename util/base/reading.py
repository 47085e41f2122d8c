"""Bounded reading of untrusted files: regular files only, and never beyond a size limit."""

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

CHUNK = 2**20  # bytes
# Of zip members. The output of bz2 and LZMA cannot be limited, as zipfile unpacks all that it has read at once.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LARGEST_DOCUMENT = 2**32  # bytes of an annotation or detections file, unpacked
# JSON compresses 10 to 20 times; a file that expands far more was made to exhaust the memory.
LARGEST_EXPANSION = 100
SMALL = 2**26  # bytes; always allowed
# Exceptions of zipfile for a damaged archive
DAMAGED_ARCHIVE = (OSError, zipfile.BadZipFile, ValueError, RuntimeError, ArithmeticError, struct.error)
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(path: Path | str) -> os.stat_result:
    """Return the status of a regular file, following links: a FIFO would block its reader, /dev/zero never ends.

    Raises:
        OSError: the file does not exist or is not regular; `strerror` says which.
    """
    status = os.stat(path)
    if not is_regular(status):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    return status


def is_regular(status: os.stat_result) -> bool:
    """Return whether a status is that of a regular file."""
    return stat.S_ISREG(status.st_mode)


def read_regular(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    size = require_regular(path).st_size
    if size > limit:
        raise _too_large(path, f"has {size} bytes; more than {limit} are not read")
    with path.open("rb") as file:
        return file.read(size + 1)


def read_document(path: Path) -> bytes | bytearray:
    """Read an annotation or detections file, decompressed if its name ends in .gz.

    Raises:
        OSError: it cannot be read, is not a regular file, or is too large.
        EOFError, zlib.error: the gzip data is damaged.
    """
    content = read_regular(path, LARGEST_DOCUMENT)
    return unpack_document(content, path) if path.suffix == ".gz" else content


def unpack_document(packed: bytes, path: Path) -> bytearray:
    """Decompress gzip data; `path` is its name in messages.

    Raises:
        OSError: it is not a gzip file, or expands too much.
        EOFError, zlib.error: the gzip data is damaged.
    """
    limit = min(LARGEST_DOCUMENT, SMALL + LARGEST_EXPANSION * len(packed))
    content = bytearray()
    with gzip.GzipFile(fileobj=BytesIO(packed)) as file:
        while chunk := file.read(CHUNK):
            content += chunk
            if len(content) > limit:
                raise _too_large(path, f"unpacks to more than {limit} bytes")
    return content


def read_member(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo) -> bytes:
    """Read a file in an archive, never more than the size stated in the archive's directory.

    In chunks, as `ZipFile.read` unpacks everything before it compares the size with the directory.

    Raises:
        zipfile.BadZipFile: it is damaged, compressed by another method than deflate, or unpacks to another size.
        RuntimeError: it is encrypted.
    """
    info = member if isinstance(member, zipfile.ZipInfo) else archive.getinfo(member)
    require_known_method(info)
    content = BytesIO()
    try:
        with archive.open(info) as file:
            while (chunk := file.read(CHUNK)) and content.tell() <= info.file_size:
                content.write(chunk)
    except (zlib.error, EOFError) as error:
        raise zipfile.BadZipFile(f"is damaged ({error})") from error
    if content.tell() != info.file_size:
        raise zipfile.BadZipFile(f"unpacks to another size than the {info.file_size} bytes that the archive states")
    return content.getvalue()


def require_known_method(info: zipfile.ZipInfo) -> None:
    """Refuse a file in an archive that is compressed by another method than deflate.

    Raises:
        zipfile.BadZipFile: it is compressed by bz2, LZMA or an unknown method.
    """
    if info.compress_type not in METHODS:
        raise zipfile.BadZipFile(f"is packed by method {info.compress_type}, not by deflate; pack it again")


def _too_large(path: Path, reason: str) -> OSError:
    return OSError(errno.EFBIG, reason, str(path))
