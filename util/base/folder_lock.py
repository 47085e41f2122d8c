"""A lock on a folder: one process at a time writes to it. The kernel releases the lock when the process ends.

The lock is on the file `.lock`, whose text names the holder. The file is removed with the lock; a killed process leaves
an unlocked file behind.

It is flock, not fcntl.lockf, which does not separate two users within one process and is lost as soon as anything in
the process closes the file. Forked processes would share it, so they close it at once: a loader worker that outlives
its parent holds nothing. Linux passes flock on to NFS servers, so it works between nodes too.
"""

from __future__ import annotations

import fcntl
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from util.base.console import print_note
from util.base.errors import UserError
from util.base.files import remove_partial_files
from util.base.launcher import current_process, slurm_job
from util.base.text import printable

LOCK = ".lock"
SUBFOLDERS = (".", "pictures", "plots")  # where a killed process may have left partial files
MAX_TRIES = 20  # another process may remove the file while this one opens it
SIGNED_AFTER = 0.1  # seconds a holder needs at most to write its name into the file
MAX_HOLDER_BYTES = 300  # in a message


class FolderInUse(UserError):  # noqa: N818 named after its cause
    """Another process holds the folder; the message names it."""


_held: set[int] = set()  # file descriptors


def _release_in_child() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder, created if missing, for the main rank of this command; other ranks lock nothing.

    Partial files of killed processes are removed. A folder that was created for the lock and stayed empty is removed
    too. On a disk without locks a note is printed.

    Args:
        folder: of a run, a prediction or an evaluation.
        what: the activity as a noun, for messages.

    Raises:
        FolderInUse: another process holds it.
        UserError: it cannot be written.
    """
    if not current_process().is_main:
        yield
        return
    path = folder / LOCK
    try:
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        file = _take(path, what)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Fix this, or use another folder: choose another "
            "--output_dir"
        ) from error
    _held.add(file)
    try:
        yield
    finally:
        _release(path, file, made)


def _take(path: Path, what: str) -> int:
    """Open and lock the file."""
    for _ in range(MAX_TRIES):
        file = _try_to_take(path, what)
        if file is not None:
            return file
    raise UserError(f"{path}: is removed again and again; restart when nothing else works in this folder")


def _try_to_take(path: Path, what: str) -> int | None:
    """Open and lock the file; None if another process removed it meanwhile, on releasing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except FileNotFoundError:
        return None
    with ExitStack() as stack:
        stack.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UserError(f"{path}: is not a regular file; remove it, or choose another --output_dir")
        is_locked = _lock(file, path, what)
        if not _is_at(path, file):
            return None
        _sign(file, what)
        for name in SUBFOLDERS if is_locked else ():
            if not (path.parent / name).is_symlink():
                remove_partial_files(path.parent / name)
        stack.pop_all()
        return file


def _lock(file: int, path: Path, what: str) -> bool:
    """Lock the file; False on a disk without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # PermissionError on CIFS
        raise FolderInUse(
            f"{path.parent}: another {_holder(file, what)}; wait until it has ended, or choose another --output_dir"
        ) from error
    except OSError as error:
        print_note(f"{path.parent}: this disk has no locks ({error.strerror}); start no second {what} there")
        return False
    return True


def _is_at(path: Path, file: int) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except OSError:
        return False


def _sign(file: int, what: str) -> None:
    """Write the name of this process into the lock file."""
    job = slurm_job()
    who = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{what} by {who}{f', Slurm job {job}' if job else ''}\n".encode(), 0)
        os.fsync(file)  # for other nodes
    except OSError:
        return  # a full disk: the lock holds, and the next write reports it


def _holder(file: int, what: str) -> str:
    """Name the holder of the lock: "prediction is writing there (process ...)"."""
    time.sleep(SIGNED_AFTER)
    try:
        text = os.pread(file, MAX_HOLDER_BYTES, 0).decode(errors="replace")
    except OSError:  # some disks refuse to read a locked file
        text = ""
    activity, _, who = printable(text.strip()).partition(" by ")
    return f"{activity} is writing there ({who})" if who else f"{what} is writing there"


def _release(path: Path, file: int, made: list[Path]) -> None:
    if file not in _held:  # in a forked process
        return
    try:
        if _is_at(path, file):
            path.unlink()
        for folder in made:
            folder.rmdir()
    except OSError:  # usually because the folder is not empty
        return
    finally:
        _held.remove(file)
        os.close(file)
