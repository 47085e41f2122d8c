"""What is known of a program that writes checkpoints of DINO, and how its tensors become the official ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

HEADS = ("class_embed", "bbox_embed")
HEAD = re.compile(r"(class_embed|bbox_embed)\.(\d+)\.(.+)")
DECODER_LAYER = re.compile(r"transformer\.decoder\.layers\.(\d+)\.")
PROJECTION = re.compile(r"(.+\.self_attn)\.q_proj\.(weight|bias)")
CLASS_ROWS = re.compile(r"(.*class_embed(?:\.\d+)?)\.(weight|bias)|label_enc\.weight")
# COCO has 80 categories with ids from 1 to 90; other programs count them from 0 to 79 in the order of their ids
COCO_WITHOUT_CATEGORY = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [i for i in range(1, 91) if i not in COCO_WITHOUT_CATEGORY]
OFFICIAL_COCO_CLASSES = 91
NEVER = -10.0  # logit of a class that COCO does not have


@dataclass(frozen=True)
class Source:
    """A program that writes checkpoints of DINO, or of a network that shares most of it.

    Args:
        name: of the program.
        marks: a name that matches it is of this program alone.
        rules: regular expression and replacement, the first that matches the whole name counts.
        ignored: names of tensors that hold no weights.
        inexact: what the network here computes otherwise although names and shapes fit; "" for nothing.
    """

    name: str
    marks: str
    rules: tuple[tuple[str, str], ...]
    ignored: str = r".*num_batches_tracked|pixel_(mean|std)|data_preprocessor\..*|criterion\..*"
    inexact: str = ""

    def official_name(self, name: str) -> str | None:
        """The official name of a tensor; None where the network here has none like it."""
        for pattern, replacement in self.rules:
            if found := re.fullmatch(pattern, name):
                return found.expand(replacement)
        return None


@dataclass
class Arranged:
    """The tensors of a checkpoint under the official names.

    Args:
        tensors: by official name; those without one keep their own.
        notes: what was changed or chosen, for the report.
        inexact: why the network here cannot compute what the source did; empty where it can.
    """

    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)


def number_extra_levels(arranged: Arranged) -> None:
    """Count the projections of extra levels, `input_proj.+0`, on from those of the backbone's maps."""
    tensors = arranged.tensors
    first = len({found[1] for name in tensors if (found := re.match(r"input_proj\.(\d+)\.", name))})
    for name in [name for name in tensors if name.startswith("input_proj.+")]:
        number, rest = name.removeprefix("input_proj.+").split(".", maxsplit=1)
        tensors[f"input_proj.{first + int(number)}.{rest}"] = tensors.pop(name)


def join_projections(arranged: Arranged) -> None:
    """Join the projections of queries, keys and values, which nn.MultiheadAttention holds in one tensor."""
    tensors = arranged.tensors
    for name in [name for name in tensors if PROJECTION.fullmatch(name)]:
        stem, kind = PROJECTION.fullmatch(name).groups()  # type: ignore[union-attr]
        parts = [f"{stem}.{letter}_proj.{kind}" for letter in "qkv"]
        if all(part in tensors for part in parts):
            tensors[f"{stem}.in_proj_{kind}"] = torch.cat([tensors.pop(part) for part in parts])


def share_heads(arranged: Arranged) -> None:
    """Give every decoder layer the head of the last one, and the proposals the head that follows it.

    The official network has one class head and one box head for all decoder layers.
    """
    tensors = arranged.tensors
    heads: dict[tuple[str, int], dict[str, Tensor]] = {}
    for name in [name for name in tensors if HEAD.fullmatch(name)]:
        kind, index, rest = HEAD.fullmatch(name).groups()  # type: ignore[union-attr]
        heads.setdefault((kind, int(index)), {})[rest] = tensors.pop(name)
    num_layers = len({found[1] for name in tensors if (found := DECODER_LAYER.match(name))})
    for kind in HEADS:
        layers = [heads[kind, i] for i in range(num_layers) if (kind, i) in heads]
        if not layers:
            continue
        if not all(_are_equal(layers[-1], layer) for layer in layers):
            arranged.inexact.append(
                f"each of its {num_layers} decoder layers has a {kind} of its own, and here one serves all: that of "
                "the last layer is taken"
            )
        for rest, tensor in layers[-1].items():
            names = [f"{where}{kind}.{i}.{rest}" for where in ("", "transformer.decoder.") for i in range(num_layers)]
            tensors.update(dict.fromkeys(names, tensor))
        for rest, tensor in heads.get((kind, num_layers), {}).items():
            tensors[f"transformer.enc_out_{kind}.{rest}"] = tensor


def add_zero_biases(arranged: Arranged, expected: Mapping[str, Tensor]) -> None:
    """Add the biases before group norm that a source leaves out: without one is the same as with zero."""
    tensors = arranged.tensors
    for name in expected:
        weight = tensors.get(f"{name.removesuffix('bias')}weight")
        if re.fullmatch(r"input_proj\.\d+\.0\.bias", name) and name not in tensors and weight is not None:
            tensors[name] = weight.new_zeros(len(weight))


def place_coco_rows(arranged: Arranged, expected: Mapping[str, Tensor]) -> None:
    """Place the rows of COCO's 80 categories at their ids, where the network here has the official 91 classes."""
    tensors = arranged.tensors
    rows = {name: len(tensors[name]) for name in tensors if CLASS_ROWS.fullmatch(name) and name in expected}
    heads = {n: expected[n].shape[0] for n in rows if n != "label_enc.weight"}
    if not heads or {rows[name] for name in heads} != {len(COCO_IDS)} or set(heads.values()) != {OFFICIAL_COCO_CLASSES}:
        changed = [name for name in heads if rows[name] == expected[name].shape[0]]
        arranged.notes += (
            ["row i of its class tables stands for category id i where num_classes is a number"] if changed else []
        )
        return
    for name in rows:
        old = tensors[name]
        new = old.new_zeros(expected[name].shape[0], *old.shape[1:])
        if name.endswith("bias"):
            new.fill_(NEVER)
        new[COCO_IDS] = old[: len(COCO_IDS)]
        tensors[name] = new
    arranged.notes.append("the rows of its 80 classes are placed at the category ids of COCO")


def _are_equal(head: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return head.keys() == other.keys() and all(torch.equal(head[name], other[name]) for name in head)
