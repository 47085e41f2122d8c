"""Atomic writes, appending and truncation, with errors that say what the user can do."""

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

STALE = 3600.0  # seconds; a file that is still being written changes far more often
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """A file cannot be written."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: to a partial file beside it, fsync, rename. `path` is the complete old or new file.

    Partial files that killed processes left of it are removed first once they are an hour old: they may fill the disk.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    if not path.name:
        raise WriteError(f"{str(path)!r} is not a file name; give one")
    partial = _partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _create(partial) as file, _removed_at_exit(partial):
            _remove_stale(path, now=os.fstat(file.fileno()).st_mtime)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        kept = "; the file that was there before is untouched" if os.path.exists(path) else ""
        raise _cannot_write(path, error, kept) from error


def _partial_path(path: Path) -> Path:
    """Return the path under which this process writes a file before the rename."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _create(partial: Path) -> IO[bytes]:
    """Create a new file; a symbolic link planted under its predictable name is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        return os.fdopen(os.open(partial, flags, 0o666), "wb")
    except FileExistsError:  # left by a killed process with the same id
        partial.unlink()
        return os.fdopen(os.open(partial, flags, 0o666), "wb")


@contextmanager
def _removed_at_exit(partial: Path) -> Iterator[None]:
    try:
        yield
    finally:
        partial.unlink(missing_ok=True)  # after a rename there is nothing to remove


def _remove_stale(path: Path, now: float) -> None:
    """Remove old partial files of `path`. Age decides, as process ids differ between machines of a shared disk.

    Args:
        path: the target.
        now: by the clock of its disk, which also stamps the partial files.
    """
    remove_partial_files(path.parent, re.escape(path.name), before=now - STALE)


def remove_partial_files(folder: Path, name: str = ".+", before: float = float("inf")) -> None:
    """Remove what killed processes left of files whose name matches the pattern, if last written before a time.

    Without a time it is for the only process that may write to the folder. What cannot be removed stays: it must not
    keep a new file from being written.
    """
    try:
        partials = [path for path in folder.iterdir() if re.fullmatch(rf"(?s)\.{name}\.\d+\.part", path.name)]
    except OSError:
        return
    for partial in partials:
        _remove_if_older(partial, before)


def _remove_if_older(path: Path, before: float) -> None:
    try:
        if path.lstat().st_mtime < before:
            path.unlink()
    except OSError:
        return


def append(path: Path, text: str) -> None:
    """Append text to a file.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise _cannot_write(path, error) from error


def flush(path: Path) -> int:
    """Flush a growing file to the disk and return its length in bytes, 0 if it does not exist."""
    if not path.exists():
        return 0
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _cannot_write(path, error) from error


def truncate(path: Path, num_bytes: int) -> int:
    """Truncate a file to at most `num_bytes` and return its new length, 0 if it does not exist."""
    if not path.exists():
        return 0
    try:
        length = min(num_bytes, path.stat().st_size)
        os.truncate(path, length)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return length


def move_aside(path: Path) -> Path | None:
    """Rename a file to NAME.1.SUFFIX, or the next free number, and return the new path; None if it does not exist."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        return path.rename(aside)
    except OSError as error:
        raise _cannot_write(path, error) from error


def link_copy(path: Path, copy: Path) -> None:
    """Copy a complete file by a hard link, or by its bytes on a disk without hard links."""
    partial = _partial_path(copy)
    try:
        partial.unlink(missing_ok=True)  # left by a killed process with the same id
        _remove_stale(copy, now=path.stat().st_mtime)
        with _removed_at_exit(partial):
            os.link(path, partial)
            partial.replace(copy)
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
    while cause is not None and not isinstance(cause, OSError):  # torch.save raises a second error over it
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
        is_full = cause.errno in (None, *DISK_FULL)
    else:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        is_full = True
    fix = "Free some space there, or choose another folder" if is_full else "Choose another folder, or fix this one"
    return WriteError(f"{path}: cannot be written ({reason}){kept}. {fix}")
