"""Files that are whole or not there."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO

from util.errors import UserError

STALE = 3600.0  # seconds; a file that is being written changes far more often
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """A file that cannot be written."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside, flush to the disk, rename: `path` is always a whole file, the old one or the new one.

    What killed processes left beside it goes first, once it is an hour old: it may be what fills the disk.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    if not path.name:
        raise WriteError(f"{str(path)!r} is no name of a file; give one")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            _remove_stale(path, now=os.fstat(file.fileno()).st_mtime)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        kept = "; the file that was there before is untouched" if os.path.exists(path) else ""
        raise _cannot_write(path, error, kept) from error
    finally:
        if os.path.exists(beside):  # Path.exists raises in a folder that may not be searched
            beside.unlink()


def _remove_stale(path: Path, now: float) -> None:
    """Remove halves of `path` by their age: a process id says nothing about the other machines of a shared disk.

    Args:
        path: the target.
        now: by the clock of its disk, which stamps the halves too.
    """
    try:
        for other in path.parent.iterdir():
            is_half = re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.part", other.name)
            if is_half and now - other.stat().st_mtime > STALE:
                other.unlink()
    except OSError:
        return  # what cannot be cleaned away, or is gone by now, must not keep the new file from being written


def append(path: Path, text: str) -> None:
    """Add text at the end of a file.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise _cannot_write(path, error) from error


def flush(path: Path) -> int:
    """Wait until a file that grows is on the disk; its length in bytes, 0 where there is none."""
    if not path.exists():
        return 0
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _cannot_write(path, error) from error


def cut_off(path: Path, num_bytes: int) -> int:
    """Shorten a file to at most `num_bytes`; the length it has then, 0 where there is none."""
    if not path.exists():
        return 0
    try:
        length = min(num_bytes, path.stat().st_size)
        os.truncate(path, length)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return length


def set_aside(path: Path) -> Path | None:
    """Rename a file that is in the way to NAME.1.ENDING, or the next number that is free; None where there is none."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        return path.rename(aside)
    except OSError as error:
        raise _cannot_write(path, error) from error


def keep_copy(path: Path, copy: Path) -> None:
    """Give a whole file a second name, which stays when the first one is replaced."""
    beside = copy.with_name(f".{copy.name}.{os.getpid()}.part")
    try:
        beside.unlink(missing_ok=True)  # of a process that was killed and had the same id
        _remove_stale(copy, now=path.stat().st_mtime)
        try:
            os.link(path, beside)
        except OSError:  # a disk without hard links
            shutil.copyfile(path, beside)
        beside.replace(copy)
    except OSError as error:
        raise _cannot_write(copy, error) from error
    finally:
        if os.path.exists(beside):
            beside.unlink()


def _cannot_write(path: Path, error: Exception, kept: str = "") -> WriteError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # torch.save hides the reason behind a second error
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        reason, is_full = cause.strerror or str(cause), cause.errno in (None, *NO_ROOM)
    else:
        reason, is_full = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}", True
    mend = "Free some space there, or choose another folder" if is_full else "Choose another folder, or mend this one"
    return WriteError(f"{path}: cannot be written ({reason}){kept}. {mend}")
