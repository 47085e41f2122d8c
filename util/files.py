"""Files that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from util.errors import UserError


class WriteError(UserError):
    """A file that cannot be written."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside, flush to the disk, rename: `path` is always a whole file, the old one or the new one.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        kept = "; the file that was there before is untouched" if path.exists() else ""
        reason = str(error).strip().splitlines() or [""]
        raise WriteError(
            f"{path}: cannot be written ({type(error).__name__}: {reason[0][:200]}){kept}. "
            "Free some space there, or choose another folder"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
