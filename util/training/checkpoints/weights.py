"""Load the weights of a checkpoint: all of them exactly, or those that fit for fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.base.text import first_few
from util.training.checkpoints.categories import CLASS_TABLES
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.sources.known import arrange
from util.training.checkpoints.sources.normalisation import normalisation_warning
from util.training.checkpoints.sources.source import Arranged
from util.training.checkpoints.wrappers import find_weights

QUERY_TABLES = ("tgt_embed.",)  # a row per query, by rank


def weights_of(content: Mapping[str, Any], path: Path, expected: Mapping[str, Tensor]) -> Arranged:
    """The weights of a checkpoint, averaged if there are such, under the official names whichever program wrote it.

    Args:
        content: of the file.
        path: of it.
        expected: of the network that will hold them; it may be without content.

    Raises:
        CheckpointError: there are none, or they are of a backbone whose names are not known.
    """
    found = find_weights(content, path)
    arranged = arrange(found.tensors, expected, path)
    arranged.notes += filter(None, [str(found), normalisation_warning(content, found.tensors)])
    return arranged


def kind_of_weights(content: Mapping[str, Any], path: Path) -> str:
    """Which weights of a checkpoint `weights_of` returns: "ema" or "model"."""
    return find_weights(content, path).kind


def require_exact(weights: Arranged, path: Path) -> None:
    """Refuse weights of another program with which the network here would predict something else.

    Raises:
        CheckpointError: saying what differs.
    """
    if weights.inexact:
        raise CheckpointError(
            f"{path}: {weights.notes[0]}, which predicts something else here: {'; '.join(weights.inexact)}. It is a "
            "start for a training: --pretrain_model_path"
        )


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: with the first names and shapes that do not, or those that are not finite.
    """
    require_fit(model.state_dict(), weights, path)
    _check_finite(weights, path)
    model.load_state_dict(dict(weights))


def require_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Compare names, shapes and kinds of numbers; `expected` may be without content.

    Raises:
        CheckpointError: with the first ones that differ.
    """
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    both = [(k, weights[k], expected[k]) for k in expected if k in weights]
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
    """The names of the tensors that `load_what_fits` has loaded, adapted or left."""

    loaded: list[str]
    adapted: list[str]
    missing: list[str]
    unexpected: list[str]
    renewed: list[str] = field(default_factory=list)  # loaded, except the rows of other classes
    classes: Mapping[int, tuple[str | None, str | None]] = field(default_factory=dict)  # old and new name
    notes: Sequence[str] = ()  # what is known of the checkpoint

    def __str__(self) -> str:
        parts = [
            *self.notes,
            f"loaded {len(self.loaded)}",
            _some("adapted", self.adapted, 20),
            _some("missing, left as initialised", self.missing),
            _some("unexpected, left out", self.unexpected),
        ]
        if self.renewed:
            changes = ", ".join(f"{i} ({a or 'none'} -> {b or 'none'})" for i, (a, b) in self.classes.items())
            parts.append(f"rows of other classes left as initialised in {len(self.renewed)} tables: {changes}")
        return "; ".join(parts)


def load_what_fits(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    classes: Mapping[int, tuple[str | None, str | None]] | None = None,
    notes: Sequence[str] = (),
) -> Fit:
    """Load the weights that fit, for fine-tuning.

    What has another shape stays as initialised: row 1 of another data set's class table is another class. Only the
    table with a row per query keeps its leading rows, which are ordered by rank. In class tables of the same shape, the
    rows of `classes` stay as initialised: other classes in the data than in the checkpoint (`other_classes`).

    Raises:
        CheckpointError: less than half of the model's tensors fit, or the weights are not finite.
    """
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    fit = Fit([], [], missing, unexpected, [], classes or {}, notes)
    _check_finite({k: weights[k] for k in expected if k in weights}, path)
    with torch.no_grad():
        for name in (k for k in expected if k in weights):
            _load_one(name, expected[name], weights[name], fit)
    if len(fit.loaded) < len(expected) / 2:
        counts = (("of another shape", fit.adapted), ("missing", fit.missing), ("not needed", fit.unexpected))
        raise CheckpointError(
            f"{path}: only {len(fit.loaded)} of the model's {len(expected)} tensors fit "
            f"({'; '.join(_some(what, names) for what, names in counts)}); is it a DINO of the same backbone and "
            "width? Known are the names of the official code, detrex, MMDetection and Hugging Face's Deformable DETR"
        )
    return fit


def _load_one(name: str, target: Tensor, loaded: Tensor, fit: Fit) -> None:
    if target.shape == loaded.shape and _is_same_kind(target, loaded):
        rows = [i for i in fit.classes if i < len(target)] if any(table in name for table in CLASS_TABLES) else []
        initial = target[rows].clone() if rows else None
        target.copy_(loaded)
        if initial is not None:
            target[rows] = initial
            fit.renewed.append(name)
        fit.loaded.append(name)
        return
    change = f"{name} ({_size(loaded)} -> {_size(target)})"
    if not _is_same_kind(target, loaded):
        fit.adapted.append(f"{change}, {_dtype(loaded)} -> {_dtype(target)}: new")
        return
    is_by_query = any(table in name for table in QUERY_TABLES) and target.shape[1:] == loaded.shape[1:]
    if not is_by_query:  # other rows may mean another class, level or sampling point
        fit.adapted.append(f"{change}: new")
        return
    num_rows = min(len(target), len(loaded))
    target[:num_rows].copy_(loaded[:num_rows])
    fit.adapted.append(f"{change}: first {num_rows} rows")


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
