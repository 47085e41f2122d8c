"""One process at a time writes to a folder: it holds a lock, which the system takes back when the process ends.

The lock is on the file `.lock`, whose text says who holds it. The file goes with the lock; a killed process leaves the
file, which then locks nothing.

It is the lock of flock, not that of fcntl.lockf, which does not keep two users within one process apart and is lost as
soon as anything in the process closes the file. Forked processes would share it, so they close it at once: a loader
process that outlives its parent holds nothing. Linux hands flock on to NFS servers, so it holds between nodes too.
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
WITH_PARTS = (".", "pictures", "plots")  # of the folder: where a killed process may have left the part of a file
MOST_TRIES = 20  # another process may take the file away while this one opens it
SIGNED_AFTER = 0.1  # seconds from getting the lock to having written who has it, at most
MOST_BYTES = 300  # of that in a message


class FolderInUse(UserError):  # noqa: N818 it is no error of the folder
    """Another process holds the folder; the message says which."""


_held: set[int] = set()  # file descriptors


def _let_go_in_child() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Take a folder, made if need be, for the main rank of this command alone; other ranks hold nothing.

    What killed processes have left there of files that they were writing is removed. A folder that was made for this
    and not written to goes again. On a disk that knows no locks a note is all there is.

    Args:
        folder: of a run, a prediction or an evaluation.
        what: is done there, a noun.

    Raises:
        FolderInUse: another process holds it; another UserError where it cannot be written.
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
        _let_go(path, file, made)


def _take(path: Path, what: str) -> int:
    """The open file of the lock."""
    for _ in range(MOST_TRIES):
        file = _try_to_take(path, what)
        if file is not None:
            return file
    raise UserError(f"{path}: is taken away again and again; start again when nothing else works in this folder")


def _try_to_take(path: Path, what: str) -> int | None:
    """The open file of the lock; None where another process that let go of it took it away meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except FileNotFoundError:
        return None
    with ExitStack() as stack:
        stack.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UserError(f"{path}: is no regular file; remove it, or choose another --output_dir")
        is_locked = _lock(file, path, what)
        if not _is_at(path, file):
            return None
        _sign(file, what)
        for name in WITH_PARTS if is_locked else ():
            if not (path.parent / name).is_symlink():
                remove_partial_files(path.parent / name)
        stack.pop_all()
        return file


def _lock(file: int, path: Path, what: str) -> bool:
    """Lock the file; False where the disk knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # the second one on CIFS
        raise FolderInUse(
            f"{path.parent}: another {_holder(file, what)}; wait until it has ended, or choose another --output_dir"
        ) from error
    except OSError as error:
        print_note(f"{path.parent}: this disk knows no locks ({error.strerror}); start no second {what} there")
        return False
    return True


def _is_at(path: Path, file: int) -> bool:
    """Whether an open file is what lies at a path."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except OSError:
        return False


def _sign(file: int, what: str) -> None:
    """Write down who holds the lock."""
    job = slurm_job()
    who = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{what} by {who}{f', Slurm job {job}' if job else ''}\n".encode(), 0)
        os.fsync(file)  # for other nodes
    except OSError:
        return  # a full disk: the lock holds, and what is written next will tell


def _holder(file: int, what: str) -> str:
    """Who has the lock: "prediction is writing there (process ...)"."""
    time.sleep(SIGNED_AFTER)
    try:
        text = os.pread(file, MOST_BYTES, 0).decode(errors="replace")
    except OSError:  # some disks let nobody read what is locked
        text = ""
    theirs, _, who = printable(text.strip()).partition(" by ")
    return f"{theirs} is writing there ({who})" if who else f"{what} is writing there"


def _let_go(path: Path, file: int, made: list[Path]) -> None:
    if file not in _held:  # this is a forked process
        return
    try:
        if _is_at(path, file):
            path.unlink()
        for folder in made:
            folder.rmdir()
    except OSError:  # it is not empty, as a rule
        return
    finally:
        _held.remove(file)
        os.close(file)
