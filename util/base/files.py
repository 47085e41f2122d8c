"""Files that are whole or not there."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from util.base.errors import UserError

STALE = 3600.0  # seconds; a file that is being written changes far more often
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """A file that cannot be written."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside, flush to the disk, rename: `path` is always a whole file, the old one or the new one.

    What killed processes left beside it goes first, once it is an hour old: it may be what fills the disk.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    if not path.name:
        raise WriteError(f"{str(path)!r} is no name of a file; give one")
    beside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _create(beside) as file, _removed_at_the_end(beside):
            _remove_stale(path, now=os.fstat(file.fileno()).st_mtime)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        kept = "; the file that was there before is untouched" if os.path.exists(path) else ""
        raise _cannot_write(path, error, kept) from error


def _beside(path: Path) -> Path:
    """The name under which this process writes a file."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _create(beside: Path) -> IO[bytes]:
    """A file that did not exist: a link that somebody has placed under its predictable name is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        return os.fdopen(os.open(beside, flags, 0o666), "wb")
    except FileExistsError:  # of a process that was killed and had the same id
        beside.unlink()
        return os.fdopen(os.open(beside, flags, 0o666), "wb")


@contextmanager
def _removed_at_the_end(beside: Path) -> Iterator[None]:
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)  # nothing is left where it has been renamed


def _remove_stale(path: Path, now: float) -> None:
    """Remove halves of `path` by their age: a process id says nothing about the other machines of a shared disk.

    Args:
        path: the target.
        now: by the clock of its disk, which stamps the halves too.
    """
    _remove_parts(path.parent, re.escape(path.name), until=now - STALE)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left in a folder, however new: for a process that alone may write there."""
    _remove_parts(folder, ".+", until=float("inf"))


def _remove_parts(folder: Path, name: str, until: float) -> None:
    try:
        parts = [path for path in folder.iterdir() if re.fullmatch(rf"(?s)\.{name}\.\d+\.part", path.name)]
    except OSError:
        return
    for part in parts:
        _remove_part(part, until)


def _remove_part(part: Path, until: float) -> None:
    try:
        if part.lstat().st_mtime < until:
            part.unlink()
    except OSError:
        return  # what cannot be cleaned away, or is gone by now, must not keep a new file from being written


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


def truncate(path: Path, num_bytes: int) -> int:
    """Shorten a file to at most `num_bytes`; the length it has then, 0 where there is none."""
    if not path.exists():
        return 0
    try:
        length = min(num_bytes, path.stat().st_size)
        os.truncate(path, length)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return length


def move_aside(path: Path) -> Path | None:
    """Rename a file that is in the way to NAME.1.ENDING, or the next number that is free; None where there is none."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        return path.rename(aside)
    except OSError as error:
        raise _cannot_write(path, error) from error


def link_copy(path: Path, copy: Path) -> None:
    """Give a whole file a second name, which stays when the first one is replaced."""
    beside = _beside(copy)
    try:
        beside.unlink(missing_ok=True)  # of a process that was killed and had the same id
        _remove_stale(copy, now=path.stat().st_mtime)
        with _removed_at_the_end(beside):
            os.link(path, beside)
            beside.replace(copy)
    except OSError:  # a disk without hard links
        _copy(path, copy)


def _copy(path: Path, copy: Path) -> None:
    try:
        source = path.open("rb")
    except OSError as error:
        raise _cannot_write(copy, error) from error
    with source:
        write_atomically(copy, lambda file: shutil.copyfileobj(source, file))


def _cannot_write(path: Path, error: Exception, kept: str = "") -> WriteError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # torch.save hides the reason behind a second error
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
        is_full = cause.errno in (None, *NO_ROOM)
    else:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        is_full = True
    mend = "Free some space there, or choose another folder" if is_full else "Choose another folder, or mend this one"
    return WriteError(f"{path}: cannot be written ({reason}){kept}. {mend}")
