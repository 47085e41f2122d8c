"""Find the weights of a checkpoint, whichever program wrote it and however it wrapped them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from torch import Tensor

from util.base.text import first_few
from util.training.checkpoints.checkpoint import CheckpointError

AVERAGED = ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema")  # entries with averaged weights
PLAIN = ("model", "state_dict", "model_state_dict", "net", "network", "module")
INSIDE = (
    "module",
    "ema_model",
    "model",
    "state_dict",
    "shadow",
)  # entries that hold the weights inside of such an entry
COUNTERS = ("n_averaged", "steps", "initted", "step")  # of an average, beside its tensors
# what wraps a network puts its name before the names of the tensors, or, torch.compile, within them
COMPILED = "_orig_mod."
AVERAGED_PREFIX = re.compile(r"(?:ema_model|model_ema|ema|averaged_model|teacher)\.")
PREFIXES = re.compile(r"(?:(?:module|model|net|network|detector|online_model|student)\.)+")


@dataclass(frozen=True)
class Found:
    """The weights of a checkpoint.

    Args:
        tensors: by name, without the prefixes of wrappers.
        kind: whether they are averaged.
        entry: where they were found; "" where the file itself is the state dict.
        others: further entries with weights, which are not taken.
    """

    tensors: dict[str, Tensor]
    kind: Literal["ema", "model"]
    entry: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        what = "averaged weights" if self.kind == "ema" else "weights"
        return f"{what} {self.entry!r} taken, not {' or '.join(map(repr, self.others))}" if self.others else ""


def find_weights(content: Mapping[str, Any], path: Path) -> Found:
    """The weights of a checkpoint: the averaged ones where there are any.

    Raises:
        CheckpointError: there are none.
    """
    entries = dict(_entries(content))
    if _is_of_mmengine(content):  # it exchanges the two when it saves, so that `state_dict` holds the average
        entries = {name: entries[name] for name in ("state_dict", "ema_state_dict")}
    if not entries:
        keys = first_few(sorted(map(str, content)), 8)
        raise CheckpointError(
            f"{path}: has no weights under 'model', nor under {', '.join((*PLAIN[1:], *AVERAGED))}; its keys are "
            f"[{keys}]. Save the state dict of the network there: torch.save({{'model': network.state_dict()}}, FILE)"
        )
    entry, *others = entries
    tensors, has_averaged_names = _names_of_network(entries[entry])
    is_averaged = entry.split(".")[0] in AVERAGED or "n_averaged" in entries[entry] or has_averaged_names
    is_averaged = is_averaged or _is_of_mmengine(content)
    return Found(tensors, "ema" if is_averaged else "model", entry, tuple(others))


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every state dict of a checkpoint with the names of the entries that lead to it, the best first."""
    for name in (*AVERAGED, *PLAIN):
        value: Any = content.get(name)
        if is_state_dict(value):
            yield name, value
        elif isinstance(value, dict):
            inside = ((key, value.get(key)) for key in INSIDE)
            yield from [(f"{name}.{key}", inner) for key, inner in inside if is_state_dict(inner)][:1]
    if is_state_dict(content):
        yield "", dict(content)


def _is_of_mmengine(content: Mapping[str, Any]) -> bool:
    return "meta" in content and all(is_state_dict(content.get(name)) for name in ("state_dict", "ema_state_dict"))


def is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether a value is a dict of tensors by name; modules may add states of their own that are none."""
    if not isinstance(value, dict) or not value:
        return False
    tensors = [v for k, v in value.items() if isinstance(k, str) and not k.endswith("_extra_state")]
    return bool(tensors) and all(isinstance(k, str) for k in value) and all(isinstance(v, Tensor) for v in tensors)


def _names_of_network(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The tensors under the names that the network gave them; whether those of an average were chosen."""
    tensors = {k: v for k, v in weights.items() if k not in COUNTERS and not k.endswith("_extra_state")}
    averaged = {AVERAGED_PREFIX.sub("", k, count=1): v for k, v in tensors.items() if AVERAGED_PREFIX.match(k)}
    has_averaged = 2 * len(averaged) >= len(tensors)  # else a few values of an average beside a network, as its decay
    chosen = {k.replace(COMPILED, ""): v for k, v in (averaged if has_averaged else tensors).items()}
    return {PREFIXES.sub("", k, count=1) if PREFIXES.match(k) else k: v for k, v in chosen.items()}, has_averaged
