"""Load a checkpoint, and rotate those of a run folder.

How the file is written and checked: `checkpoints.file`; what it holds: `checkpoints.schema`.
"""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Iterator
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.files import link_copy
from util.base.text import first_few
from util.training.checkpoints.file import LOAD_ERRORS, DamagedFile, foreign_classes, read_tensors
from util.training.checkpoints.schema import PARTS, problem_of

OWN_NAME = "checkpoint.pth"
BEST_NAME = "best.pth"
OWN_PARTS = ("model_keys", "cut", "category_ids", "category_names", "rows", "judged", "operating_point")


SAVE_WEIGHTS = (  # of a file with objects of any kind
    "import torch; c = torch.load({source!r}, map_location='cpu', weights_only=False); "
    "m = c.get('model', c.get('state_dict', c)) if isinstance(c, dict) else c; "
    "torch.save({{'model': m if isinstance(m, dict) else m.state_dict()}}, {target!r})"
)


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit."""


class ForeignObject(CheckpointError):  # noqa: N818 named after its cause
    """A checkpoint with an object that is neither a tensor nor a plain value."""


def rotate(folder: Path, keep_last: int) -> None:
    """Rename the older checkpoints before a new one: checkpoint.pth to checkpoint.1.pth, that to checkpoint.2.pth, ...

    At any moment there is a whole checkpoint.pth. `keep_last` counts it and the new one takes its place.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    own, *older = (folder / _nth(number) for number in range(keep_last))
    for number in takewhile(lambda n: (folder / _nth(n)).is_file(), count(keep_last)):
        (folder / _nth(number)).unlink()  # from a larger `keep_last_checkpoints`
    if not older or not own.is_file() or (older[0].exists() and own.samefile(older[0])):
        return
    for newer, path in reversed(list(pairwise(older))):
        if newer.is_file():
            newer.replace(path)
    link_copy(own, older[0])


def copy_best(source: Path, folder: Path) -> bool:
    """Copy the best checkpoint beside `source` into the folder of a run that resumes there; whether there is one."""
    best = source.with_name(BEST_NAME)
    if not best.is_file():
        return False
    link_copy(best, folder / BEST_NAME)
    return True


def _nth(number: int) -> str:
    """The name of the newest checkpoint (0) or an older one."""
    return f"checkpoint.{number}.pth" if number else OWN_NAME


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this repository or an official one, without running code from it.

    Raises:
        CheckpointError: not there, cut short, damaged, holding anything but tensors, plain values and an
            argparse.Namespace, or a part that is not what `util.training.checkpoints.schema` says.
    """
    if not path.is_file():
        what = (
            "no such checkpoint: it is a folder; name a file in it"
            if path.is_dir()
            else "no such checkpoint; check the path"
        )
        raise CheckpointError(f"{path}: {what}")
    try:
        return _read(path)
    except ForeignObject:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_advice(path)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_tensors(path)
    except DamagedFile as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    except LOAD_ERRORS as error:
        if isinstance(error, pickle.UnpicklingError) and (classes := foreign_classes(path, error)):
            raise ForeignObject(_about_objects(path, classes)) from error
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dict with 'model'")
    if not any(part in content for part in OWN_PARTS) and not PARTS["config"].fits(content.get("config", {})):
        content = {name: value for name, value in content.items() if name != "config"}  # that of another program
    if problem := problem_of(content):
        raise CheckpointError(f"{path}: cannot be used: {problem}")
    return content


def _about_objects(path: Path, classes: list[str]) -> str:
    command = SAVE_WEIGHTS.format(source=str(path), target=str(path.with_name(f"{path.stem}_weights.pth")))
    return (
        f"{path}: cannot be read as a checkpoint: beside tensors and plain values it holds {first_few(classes)}, and "
        "to load such an object would run code that the file names. If you trust the file, save its weights alone, "
        f"where the program that wrote it is installed, and give the new file: python -c {shlex.quote(command)}"
    )


def _advice(path: Path) -> str:
    """Advice about a damaged checkpoint: the newest whole one beside it."""
    whole = next((p for p in _beside(path) if _is_whole(p)), None)
    if whole is None:
        return "Copy it again, or take another one"
    if path.name != OWN_NAME:
        return f"Copy it again, or take {whole}, which is whole"
    if whole.stem.startswith(f"{path.stem}."):
        return f"The one before it is {whole}: rename it to {OWN_NAME} to resume from there"
    return f"{whole} is whole: copy it to {path} to resume from there"


def _beside(path: Path) -> Iterator[Path]:
    """Other checkpoints of the run folder, newest first: those of the series, the best one, those kept for good."""
    older = sorted(path.parent.glob("checkpoint.[0-9]*.pth"), key=lambda p: (len(p.name), p.name))
    kept = sorted(path.parent.glob("checkpoint[0-9]*.pth"), key=lambda p: (len(p.name), p.name), reverse=True)
    for other in (path.with_name(OWN_NAME), *older, path.with_name(BEST_NAME), *kept):
        if other.is_file() and not (path.exists() and other.samefile(path)):
            yield other


def _is_whole(path: Path) -> bool:
    try:
        return bool(_read(path))
    except CheckpointError:
        return False


def _reason(error: BaseException) -> str:
    """Why a file cannot be read. PyTorch's own words would advise to run the code inside it."""
    if isinstance(error, OSError) and error.filename:  # others come from reading what is no zip as an older format
        return error.strerror or str(error)
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or holds more than weights and plain values"
    return f"{type(error).__name__}: the file is empty, cut short or damaged"
