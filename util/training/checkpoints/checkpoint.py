"""Which checkpoint a run starts from, the checkpoints of its folder, and weights that fit.

How the file is written and checked: `checkpoints.file`; what it holds: `checkpoints.schema`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from util.base.errors import UserError
from util.base.files import link_copy
from util.base.text import first_few
from util.training.checkpoints.categories import CLASS_TABLES
from util.training.checkpoints.earlier_training import require_none
from util.training.checkpoints.file import UNREADABLE, DamagedFile, read_tensors
from util.training.checkpoints.file import save as save
from util.training.checkpoints.schema import problem_of

OWN_NAME = "checkpoint.pth"
BEST_NAME = "best.pth"
QUERY_TABLES = ("tgt_embed.",)  # a row per query, by rank


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit."""


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    kind: Literal["own", "resume", "pretrain", "scratch"]
    path: Path | None
    reason: str


def choose_start(output_dir: Path, resume: Path | None, pretrain: Path | None) -> Start:
    """The run's own checkpoint; then --resume; then --pretrain_model_path; then scratch. Nothing else is picked up.

    The own checkpoint comes first so that a job that is requeued with its first command goes on where it was.

    Raises:
        UserError: the own checkpoint is missing while others of an earlier training are there.
    """
    own = output_dir / OWN_NAME
    if own.is_file():
        ignored = resume or pretrain
        beyond = f"; {ignored} was for the first start" if ignored and ignored != own else ""
        return Start("own", own, f"going on from this run's own {own}{beyond}")
    require_none(own, output_dir / BEST_NAME, resume)
    if resume:
        return Start("resume", resume, f"going on from {resume}")
    if pretrain:
        return Start("pretrain", pretrain, f"weights from {pretrain}, everything else new")
    return Start("scratch", None, "a new run")


def unused(start: Start, *given: Path | None) -> list[str]:
    """Warnings of checkpoints that the command line names and the run does not start from.

    Raises:
        CheckpointError: one of them is not there: a typing error should not wait for the day when it is needed.
    """
    warnings = []
    for path in given:
        if path is None or path == start.path:
            continue
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint; check the path")
        if not (start.path and start.path.is_file() and path.samefile(start.path)):
            warnings.append(f"{path} is not used: {start.reason}")
    return warnings


def rotate(folder: Path, keep_last: int) -> None:
    """Before a new checkpoint.pth: keep the one that is there as checkpoint.1.pth, that as checkpoint.2.pth, ...

    At any moment there is a whole checkpoint.pth. `keep_last` counts it and the new one takes its place.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    own, *older = (folder / _nth(number) for number in range(keep_last))
    for number in takewhile(lambda n: (folder / _nth(n)).is_file(), count(keep_last)):
        (folder / _nth(number)).unlink()  # of a time when more were kept
    if not older or not own.is_file() or (older[0].exists() and own.samefile(older[0])):
        return
    for newer, path in reversed(list(pairwise(older))):
        if newer.is_file():
            newer.replace(path)
    link_copy(own, older[0])


def take_best_along(source: Path, folder: Path) -> bool:
    """For a run that goes on in another folder: whether the best checkpoint beside `source` is now there too."""
    best = source.with_name(BEST_NAME)
    if not best.is_file():
        return False
    link_copy(best, folder / BEST_NAME)
    return True


def _nth(number: int) -> str:
    """The name of the newest checkpoint (0) or an older one."""
    return f"checkpoint.{number}.pth" if number else OWN_NAME


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or an official one, without running code from it: the one way in for all uses.

    Raises:
        CheckpointError: not there, cut short, damaged, holding anything but tensors, plain values and an
            argparse.Namespace, or a part that is not what `util.training.checkpoints.schema` says.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    try:
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_way_out(path)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_tensors(path)
    except DamagedFile as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dict with 'model'")
    if problem := problem_of(content):
        raise CheckpointError(f"{path}: cannot be used: {problem}")
    return content


def weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights inside a checkpoint, ours or an official one: the averaged ones if there are any."""
    found = next((v for v in (*map(content.get, ("ema", "ema_model", "model")), content) if _is_state_dict(v)), None)
    if found is None:
        raise CheckpointError(f"{path}: has no weights under 'model'; its keys are {sorted(map(str, content))[:8]}")
    return {k.removeprefix("module."): v for k, v in found.items()}


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: with the first names and shapes that do not, or those that are not finite.
    """
    require_fit(model.state_dict(), weights, path)
    _check_finite(weights, path)
    model.load_state_dict(dict(weights))


def require_fit(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Compare names, shapes and kinds of numbers; `wanted` may be without content.

    Raises:
        CheckpointError: with the first ones that differ.
    """
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    both = [(k, weights[k], wanted[k]) for k in wanted if k in weights]
    shapes = [f"{k} {list(a.shape)} instead of {list(b.shape)}" for k, a, b in both if a.shape != b.shape]
    kinds = [f"{k} {_dtype(a)} instead of {_dtype(b)}" for k, a, b in both if not _is_same_kind(a, b)]
    if missing or unexpected or shapes or kinds:
        raise CheckpointError(
            f"{path}: is a checkpoint of another model: {_some('missing', missing)}, "
            f"{_some('unexpected', unexpected)}, {_some('of another shape', shapes)}"
            f"{', ' * bool(kinds)}{_some('of other numbers', kinds) if kinds else ''}. Use the config it was made "
            "with, or --pretrain_model_path to take over what fits"
        )


def _is_same_kind(a: Tensor, b: Tensor) -> bool:
    return a.is_floating_point() == b.is_floating_point()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Fit:
    """What became of each tensor when weights of another training were taken over."""

    loaded: list[str]
    adapted: list[str]
    missing: list[str]
    unexpected: list[str]
    renewed: list[str] = field(default_factory=list)  # loaded, but for the rows of other classes
    classes: Mapping[int, tuple[str | None, str | None]] = field(default_factory=dict)  # their name and ours, by id

    def __str__(self) -> str:
        parts = [
            f"loaded {len(self.loaded)}",
            _some("adapted", self.adapted, 20),
            _some("missing, left as initialised", self.missing),
            _some("unexpected, left out", self.unexpected),
        ]
        if self.renewed:
            changes = ", ".join(f"{i} ({a or 'none'} -> {b or 'none'})" for i, (a, b) in self.classes.items())
            parts.append(f"rows of other classes start anew in {len(self.renewed)} tables: {changes}")
        return "; ".join(parts)


def load_what_fits(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    classes: Mapping[int, tuple[str | None, str | None]] | None = None,
) -> Fit:
    """Take over weights for fine-tuning.

    What has another shape starts anew: row 1 of another data set's class table is another class. Only the table with
    a row per query keeps its leading rows, which are ordered by rank. In class tables of the same shape, the rows of
    `classes` start anew, which are other classes in the data than in the checkpoint (`categories.other_classes`).

    Raises:
        CheckpointError: less than half of the model's tensors fit, or the weights are not finite.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    fit = Fit([], [], missing, unexpected, [], classes or {})
    _check_finite({k: weights[k] for k in wanted if k in weights}, path)
    with torch.no_grad():
        for name in (k for k in wanted if k in weights):
            _take(name, wanted[name], weights[name], fit)
    if len(fit.loaded) < len(wanted) / 2:
        others = f"{_some('of another shape', fit.adapted)}; {_some('missing', fit.missing)}"
        raise CheckpointError(
            f"{path}: only {len(fit.loaded)} of the model's {len(wanted)} tensors fit ({others}); "
            "is it a DINO of the same backbone and width?"
        )
    return fit


def _take(name: str, ours: Tensor, theirs: Tensor, fit: Fit) -> None:
    if ours.shape == theirs.shape and _is_same_kind(ours, theirs):
        rows = [i for i in fit.classes if i < len(ours)] if any(table in name for table in CLASS_TABLES) else []
        initial = ours[rows].clone() if rows else None
        ours.copy_(theirs)
        if rows:
            ours[rows] = initial
            fit.renewed.append(name)
        fit.loaded.append(name)
        return
    change = f"{name} ({_size(theirs)} -> {_size(ours)})"
    if not _is_same_kind(ours, theirs):
        fit.adapted.append(f"{change}, {_dtype(theirs)} -> {_dtype(ours)}: new")
        return
    is_by_query = any(table in name for table in QUERY_TABLES) and ours.shape[1:] == theirs.shape[1:]
    if not is_by_query:  # other rows may mean another class, level or sampling point
        fit.adapted.append(f"{change}: new")
        return
    rows = min(len(ours), len(theirs))
    ours[:rows].copy_(theirs[:rows])
    fit.adapted.append(f"{change}: first {rows} rows")


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{path}: {_some('tensors hold numbers that are not finite', bad)}. "
            "The training it comes from had failed; take an earlier checkpoint"
        )


def _some(what: str, items: list[str], at_most: int = 3) -> str:
    return f"{len(items)} {what}" + (f": {first_few(items, at_most)}" if items else "")


def _way_out(path: Path) -> str:
    """What to do about a file that is no whole checkpoint: the newest one beside it that is."""
    found = next((p for p in _beside(path) if _is_whole(p)), None)
    if found is None:
        return "Copy it again, or take another one"
    if path.name != OWN_NAME:
        return f"Copy it again, or take {found}, which is whole"
    if found.stem.startswith(f"{path.stem}."):
        return f"The one before it is {found}: rename it to {OWN_NAME} to go on from there"
    return f"{found} is whole: copy it to {path} to go on from there"


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
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or holds more than weights and plain values"
    return f"{type(error).__name__}: the file is empty, cut short or damaged"
