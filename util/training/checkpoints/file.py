"""Write a checkpoint with a checksum of all its bytes, and read it only where they are what was written.

torch.save writes a zip archive. Its checksums, one for each tensor, are not read by torch.load, and none covers what
lies between the tensors. So the archive gets a comment, which every reader of zip files skips: the CRC-32 of all bytes
before the comment. A file without one, official or older, is compared with the checksums of the archive.
"""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from util.base.files import write_atomically

COMMENT = b"CRC-32 of the bytes before this comment: %08x"
COMMENT_BEGINS = COMMENT[:10]
COMMENT_BYTES = len(COMMENT % 0)
# how an archive and its end record begin
ZIP_BEGINS = b"PK\x03\x04"
ZIP_ENDS = b"PK\x05\x06"
END_BYTES = 22  # of the end record
LENGTH_BYTES = 2  # of the length of the comment behind it, which stands last
LONGEST_COMMENT = 2**16 - 1
CHUNK = 1 << 20
LOAD_ERRORS = (  # what bytes that are no file of tensors can set off inside torch.load
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
SAFETENSORS = ".safetensors"


class DamagedFile(ValueError):  # noqa: N818 the message is the reason
    """The bytes of a file are not those that were written."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Save tensors and plain values with a checksum; the file is whole, or the old one stays.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """

    def write(file: IO[bytes]) -> None:
        summed = _Summed(file)
        torch.save(dict(content), summed)  # type: ignore[arg-type] # it takes whatever has `write` and `flush`
        summed.finish()

    write_atomically(path, write)


def read_tensors(path: Path) -> Any:
    """The content of a file of tensors and plain values, onto the CPU; no code of the file is run.

    A file whose name ends in .safetensors is one of Hugging Face's; anything else is one of PyTorch's.

    The file is opened once: what is checked is what is read, also where another one takes its name meanwhile.

    Raises:
        DamagedFile: the bytes are not those that were written.
        one of LOAD_ERRORS: it holds something else, or is of no format of PyTorch.
    """
    if path.suffix.lower() == SAFETENSORS:
        return load_file(path, device="cpu")
    with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
        require_whole(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def foreign_classes(path: Path, error: BaseException) -> list[str]:
    """Classes and functions in a file of PyTorch that are no tensors or plain values; found without running them.

    Args:
        path: the file.
        error: what reading it raised, which names the first of them where the file is of the older format.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            return sorted(found, key=lambda name: (name.startswith("builtins."), name))
    except LOAD_ERRORS:
        return re.findall(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error))[:1]


def require_whole(file: IO[bytes]) -> None:
    """Compare a file with its checksum, or the archive with those inside; formats without any are left to torch.load.

    Raises:
        DamagedFile: saying what is wrong.
        EOFError: its end is not there.
    """
    length = file.seek(0, 2)
    file.seek(max(0, length - END_BYTES - COMMENT_BYTES))
    tail = file.read()
    file.seek(0)
    has_comment = len(tail) == END_BYTES + COMMENT_BYTES and tail[:END_BYTES] == _with_comment(tail[:END_BYTES])
    if not has_comment and tail[-END_BYTES:] != _with_comment(tail[-END_BYTES:], 0):
        if file.read(len(ZIP_BEGINS)) != ZIP_BEGINS:
            return
        _require_end(file, length)
    if has_comment:
        _require_sum(file, length - COMMENT_BYTES, tail[END_BYTES:])
    _require_archive(file, length, compares_sums=not has_comment)


def _require_end(file: IO[bytes], length: int) -> None:
    """Find the end of an archive of another program, which may be followed by zeros or a comment.

    What is left of a comment of ours is damage.
    """
    file.seek(max(0, length - END_BYTES - LONGEST_COMMENT))
    tail = file.read()
    tail = tail[max(0, tail.rfind(ZIP_ENDS)) :]
    is_end = tail.startswith(ZIP_ENDS) and len(tail) >= END_BYTES
    announced = int.from_bytes(tail[END_BYTES - LENGTH_BYTES : END_BYTES], "little")
    if not is_end or END_BYTES + announced > len(tail) or COMMENT_BEGINS in tail:
        raise EOFError("an archive without its end")


def _with_comment(end: bytes, num_bytes: int = COMMENT_BYTES) -> bytes:
    """The end record of an archive, announcing a comment; of other bytes something that they are not."""
    return ZIP_ENDS + end[len(ZIP_ENDS) : -LENGTH_BYTES] + num_bytes.to_bytes(LENGTH_BYTES, "little")


def _require_sum(file: IO[bytes], num_bytes: int, comment: bytes) -> None:
    crc = 0
    while num_bytes:
        chunk = file.read(min(CHUNK, num_bytes))
        if not chunk:
            raise EOFError("it became shorter while it was read")
        crc = zlib.crc32(chunk, crc)
        num_bytes -= len(chunk)
    if comment != COMMENT % crc:
        raise DamagedFile("its checksum is another one, so it is not what was written")


def _require_archive(file: IO[bytes], length: int, *, compares_sums: bool) -> None:
    """PyTorch compresses nothing, so an archive that unpacks to more than its own length is none of PyTorch's."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > length:
                raise DamagedFile("it unpacks to more than its length, as no file of PyTorch does")
            damaged = archive.testzip() if compares_sums else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error) as error:
        raise DamagedFile(f"{error}, which is not what was written") from error
    if damaged:
        raise DamagedFile(
            f"the checksum of {damaged} is another one: it is not what was written, or it was written with "
            "torch.serialization.set_crc32_options(False)"
        )


class _Summed:
    """A file that torch.save writes an archive into, front to back; the archive gets its checksum as a comment.

    Args:
        file: where the bytes go.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.crc = 0
        self.held = b""  # the last bytes so far, which may be the end record

    def write(self, data: bytes) -> int:
        """Write, but for the last bytes."""
        view = memoryview(data).cast("B")
        if len(view) >= END_BYTES:
            self._emit(self.held)
            self._emit(view[:-END_BYTES])
            self.held = bytes(view[-END_BYTES:])
        else:
            joined = self.held + bytes(view)
            self._emit(joined[:-END_BYTES])
            self.held = joined[-END_BYTES:]
        return len(view)

    def flush(self) -> None:
        """Do nothing: the owner of the file flushes it."""

    def finish(self) -> None:
        """Write the end record, which announces a comment now, and the comment."""
        if self.held != _with_comment(self.held, 0):
            raise RuntimeError("torch.save wrote no zip archive")
        self._emit(_with_comment(self.held))
        self.file.write(COMMENT % self.crc)

    def _emit(self, data: bytes | memoryview) -> None:
        self.crc = zlib.crc32(data, self.crc)
        self.file.write(data)
