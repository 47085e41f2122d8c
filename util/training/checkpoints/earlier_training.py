"""Whether a folder without its newest checkpoint holds others of a training, which a new one would overwrite."""

import filecmp
import os
import re
from pathlib import Path

from util.base.errors import UserError
from util.base.text import first_few


def require_none(own: Path, best: Path, resume: Path | None) -> None:
    """Refuse to begin a training where an earlier one has left checkpoints.

    A start from another folder's checkpoint takes the best one beside that along before it saves for the first time, so
    a copy of that one is no obstacle.

    Args:
        own: the newest checkpoint of the folder, which is missing; older ones are called NAME.1.pth, NAME.2.pth, ...,
            those that are kept for good NAME0010.pth.
        best: the best one of the folder.
        resume: the checkpoint to start from, if any.

    Raises:
        UserError: what there is, and how to go on with it.
    """
    if os.path.lexists(own):
        what = f"a link to {os.readlink(own)}, which is not there" if own.is_symlink() else "no file"
        raise UserError(f"{own}: is {what}. Bring the checkpoint back, or choose another --output_dir")
    names = os.listdir(own.parent) if own.parent.is_dir() else []
    stem, suffix = re.escape(own.stem), re.escape(own.suffix)
    older = sorted(_numbered(names, rf"{stem}\.(\d+){suffix}"))
    kept = sorted(_numbered(names, rf"{stem}(\d+){suffix}"), reverse=True)
    left = [name for _, name in older] + [best.name] * (best.name in names) + [name for _, name in kept]
    is_taken_along = resume is not None and left == [best.name] and _is_same(best, resume.with_name(best.name))
    if not left or is_taken_along:
        return
    way_on = (
        f"rename {left[0]} to {own.name} to go on from there"
        if older
        else f"go on from it by --resume {own.with_name(left[0])} --output_dir logs/NEW"
    )
    raise UserError(
        f"{own.parent}: has {first_few(left)} of an earlier training, but no {own.name}; a new one would overwrite "
        f"checkpoints. Either {way_on}, or choose another --output_dir"
    )


def _numbered(names: list[str], pattern: str) -> list[tuple[int, str]]:
    return [(int(match[1]), name) for name in names if (match := re.fullmatch(pattern, name))]


def _is_same(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and (path.samefile(other) or filecmp.cmp(path, other, shallow=False))
