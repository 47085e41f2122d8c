"""The programs whose checkpoints of DINO can be loaded, and the loading of their tensors under the official names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from util.base.text import first_few
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.sources.detrex import DETREX
from util.training.checkpoints.sources.hugging_face import HUGGING_FACE
from util.training.checkpoints.sources.mmdetection import MMDETECTION
from util.training.checkpoints.sources.source import (
    Arranged,
    Source,
    add_zero_biases,
    join_projections,
    number_extra_levels,
    place_coco_rows,
    share_heads,
)

SOURCES = (DETREX, MMDETECTION, HUGGING_FACE)


def source_of(tensors: Mapping[str, Tensor]) -> Source | None:
    """The program whose names these are; None for the official ones and unknown ones."""
    return next((s for s in SOURCES if any(re.fullmatch(s.marks, name) for name in tensors)), None)


def arrange(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> Arranged:
    """The tensors of a checkpoint under the official names; those of no known source stay as they are.

    Args:
        tensors: by their name in the source.
        expected: of the network here, which may be without content.
        path: of the checkpoint.

    Raises:
        CheckpointError: the source is known, but not its backbone.
    """
    source = source_of(tensors)
    if source is None:
        return Arranged(dict(tensors))
    useful = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(source.ignored, name)}
    arranged = Arranged({source.official_name(name) or name: tensor for name, tensor in useful.items()})
    arranged.notes.append(f"a checkpoint of {source.name}")
    arranged.inexact += [source.inexact] if source.inexact else []
    number_extra_levels(arranged)
    join_projections(arranged)
    share_heads(arranged)
    add_zero_biases(arranged, expected)
    place_coco_rows(arranged, expected)
    of_backbone = [name for name in useful if name.startswith("backbone.")]
    if of_backbone and not any(name.startswith("backbone.") for name in arranged.tensors.keys() & expected.keys()):
        raise CheckpointError(
            f"{path}: is a checkpoint of {source.name} with another backbone than the config's, or with one whose "
            f"names are not known ({len(of_backbone)} tensors: {first_few(of_backbone)}); ResNets are known of every "
            "source. Set backbone to what the checkpoint has"
        )
    return arranged
