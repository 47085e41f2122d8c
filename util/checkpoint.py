"""Saving and loading: files that are whole or not there, a start that is chosen by one rule, weights that fit."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from util.earlier_training import require_none
from util.errors import UserError
from util.files import keep_copy, write_whole
from util.text import first_few

OWN_NAME, BEST_NAME = "checkpoint.pth", "best.pth"
QUERY_TABLES = ("tgt_embed.",)  # a row per query, by rank
UNREADABLE = (  # what bytes that are no file of tensors can set off inside torch.load
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    struct.error,
    pickle.UnpicklingError,
)


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


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Save tensors and plain values; the file is whole, or the old one stays.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    write_whole(path, lambda file: torch.save(dict(content), file))


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
    keep_copy(own, older[0])


def take_best_along(source: Path, folder: Path) -> bool:
    """For a run that goes on in another folder: whether the best checkpoint beside `source` is now there too."""
    best = source.with_name(BEST_NAME)
    if not best.is_file():
        return False
    keep_copy(best, folder / BEST_NAME)
    return True


def _nth(number: int) -> str:
    """The name of the newest checkpoint (0) or an older one."""
    return f"checkpoint.{number}.pth" if number else OWN_NAME


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or an official one, without running code from it.

    Raises:
        CheckpointError: not there, cut short, or holding anything but tensors, plain values and an argparse.Namespace.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_reason(error)}). {_way_out(path)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dict with 'model'")
    return content


def require_undamaged(path: Path) -> None:
    """Compare what a checkpoint holds with its checksums, which PyTorch writes but does not read: 1 s for a gigabyte.

    Raises:
        CheckpointError: something in it has changed since it was written.
    """
    if not zipfile.is_zipfile(path):  # an older format, without checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        damaged = str(error)
    if damaged:
        raise CheckpointError(f"{path}: is damaged: {damaged} is not what was written. {_way_out(path)}")


def weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights inside a checkpoint, ours or an official one: the averaged ones if there are any."""
    found = next((v for v in (*map(content.get, ("ema", "ema_model", "model")), content) if _is_state_dict(v)), None)
    if found is None:
        raise CheckpointError(f"{path}: has no weights under 'model'; its keys are {sorted(map(str, content))[:8]}")
    return {k.removeprefix("module."): v for k, v in found.items()}


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: with the first names and shapes that do not, or those that are not finite.
    """
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    shapes = [
        f"{k} {list(weights[k].shape)} instead of {list(wanted[k].shape)}"
        for k in wanted
        if k in weights and weights[k].shape != wanted[k].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path}: is a checkpoint of another model: {_some('missing', missing)}, "
            f"{_some('unexpected', unexpected)}, {_some('of another shape', shapes)}. Use the config it was made with, "
            "or --pretrain_model_path to take over what fits"
        )
    _check_finite(weights, path)
    model.load_state_dict(dict(weights))


@dataclass(frozen=True)
class Fit:
    """What became of each tensor when weights of another training were taken over."""

    loaded: list[str]
    adapted: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        return "; ".join(
            (
                f"loaded {len(self.loaded)}",
                _some("adapted", self.adapted, 20),
                _some("missing, left as initialised", self.missing),
                _some("unexpected, left out", self.unexpected),
            )
        )


def load_what_fits(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> Fit:
    """Take over weights for fine-tuning.

    What has another shape starts anew: row 1 of another data set's class table is another class. Only the table with
    a row per query keeps its leading rows, which are ordered by rank.

    Raises:
        CheckpointError: less than half of the model's tensors fit, or the weights are not finite.
    """
    _check_finite(weights, path)
    wanted = model.state_dict()
    fit = Fit([], [], sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys()))
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
    if ours.shape == theirs.shape:
        ours.copy_(theirs)
        fit.loaded.append(name)
        return
    change = f"{name} ({' x '.join(map(str, theirs.shape))} -> {' x '.join(map(str, ours.shape))})"
    is_by_query = any(table in name for table in QUERY_TABLES) and ours.shape[1:] == theirs.shape[1:]
    if not is_by_query:  # other rows may mean another class, level or sampling point
        fit.adapted.append(f"{change}: new")
        return
    rows = min(len(ours), len(theirs))
    ours[:rows].copy_(theirs[:rows])
    fit.adapted.append(f"{change}: first {rows} rows")


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
    older = path.with_name(_nth(1))
    if path.name == OWN_NAME and older.is_file():
        return f"The one before it is {older}: rename it to {OWN_NAME} to go on from there"
    return "Copy it again, or take another one"


def _reason(error: BaseException) -> str:
    """Why a file cannot be read. PyTorch's own words would advise to run the code inside it."""
    if isinstance(error, OSError) and error.filename:  # others come from reading what is no zip as an older format
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or holds more than weights and plain values"
    return f"{type(error).__name__}: the file is empty, cut short or damaged"
