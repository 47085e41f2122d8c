"""Refuse to start a training in a folder that has checkpoints of an earlier one, but not the newest."""

import filecmp
import os
import re
from pathlib import Path

from util.base.errors import UserError
from util.base.text import first_few


def require_none(own: Path, best: Path, resume: Path | None) -> None:
    """Refuse to start a training where an earlier one has left checkpoints.

    A start from another folder's checkpoint copies the best one beside that before it saves for the first time, so such
    a copy is no obstacle.

    Args:
        own: the newest checkpoint of the folder, which is missing; older ones are called NAME.1.pth, NAME.2.pth, ...,
            those that are kept for good NAME0010.pth.
        best: the best one of the folder.
        resume: the checkpoint to start from, if any.

    Raises:
        UserError: which there are, and how to resume from them.
    """
    if os.path.lexists(own):
        what = f"a link to {os.readlink(own)}, which is not there" if own.is_symlink() else "no file"
        raise UserError(f"{own}: is {what}. Bring the checkpoint back, or choose another --output_dir")
    names = os.listdir(own.parent) if own.parent.is_dir() else []
    stem = re.escape(own.stem)
    suffix = re.escape(own.suffix)
    older = sorted(_numbered(names, rf"{stem}\.(\d+){suffix}"))
    kept = sorted(_numbered(names, rf"{stem}(\d+){suffix}"), reverse=True)
    left = [name for _, name in older] + [best.name] * (best.name in names) + [name for _, name in kept]
    is_copied = resume is not None and left == [best.name] and _is_same(best, resume.with_name(best.name))
    if not left or is_copied:
        return
    advice = (
        f"rename {left[0]} to {own.name} to resume from there"
        if older
        else f"resume from it by --resume {own.with_name(left[0])} --output_dir logs/NEW"
    )
    raise UserError(
        f"{own.parent}: has {first_few(left)} of an earlier training, but no {own.name}; a new one would overwrite "
        f"checkpoints. Either {advice}, or choose another --output_dir"
    )


def _numbered(names: list[str], pattern: str) -> list[tuple[int, str]]:
    return [(int(match[1]), name) for name in names if (match := re.fullmatch(pattern, name))]


def _is_same(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and (path.samefile(other) or filecmp.cmp(path, other, shallow=False))
