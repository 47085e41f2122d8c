"""The parts of a checkpoint, and their check before anything is used.

Unpickled values are of any type and size that the file names, whoever wrote it. After this check a part is what its
line below says, so that the code which uses it need not ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.runlog.run_log import SCHEMA as LOG_SCHEMA

Check = Callable[[Any], bool]
LARGEST = 2**53  # of whole numbers, which are then exact as floats too
LARGEST_ID = 2**63 - 1
LONGEST_TEXT = 60  # characters of a value in a message
NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


class Part(NamedTuple):
    """An entry of a checkpoint.

    Args:
        expected: what it is, in words.
        fits: whether a value is that.
        may_be_none: None stands for a part that is not there.
        is_ours_alone: other programs may mean something else by the name.
    """

    expected: str
    fits: Check
    may_be_none: bool = False
    is_ours_alone: bool = True


def is_text(value: Any) -> bool:
    """A str."""
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """A whole number from 0 on; True and False are none."""
    return type(value) is int and 0 <= value <= LARGEST


def is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    return math.isfinite(value) if type(value) is float else type(value) is int and -LARGEST <= value <= LARGEST


def _is_float(value: Any) -> bool:
    """Any number, also one that is not finite, as a log may hold it."""
    return type(value) is float or is_number(value)


def _is_plain(value: Any) -> bool:
    """A value of a config."""
    scalars = value if isinstance(value, list | tuple) else (value,)
    return all(v is None or type(v) in (bool, float, str) or (type(v) is int and abs(v) < 2**64) for v in scalars)


def _is_id(value: Any) -> bool:
    """A category id as annotation files may have it."""
    return type(value) is int and 0 <= value <= LARGEST_ID


def _is_category(value: Any) -> bool:
    return is_text(value) and value.isascii() and value.isdigit() and len(value) < 20 and _is_id(int(value))


def list_of(fits: Check, length: int | None = None) -> Check:
    """A list or tuple, of this length if one is given."""
    return lambda v: isinstance(v, list | tuple) and length in (None, len(v)) and all(map(fits, v))


def dict_of(key: Check, value: Check) -> Check:
    """A dict, which may be empty."""
    return lambda v: isinstance(v, dict) and all(key(k) and value(x) for k, x in v.items())


def record(**fields: Check) -> Check:
    """A dict with these entries at least."""
    return lambda v: isinstance(v, dict) and all(name in v and fits(v[name]) for name, fits in fields.items())


def either(*checks: Check) -> Check:
    """A value that fits one of several checks."""
    return lambda v: any(fits(v) for fits in checks)


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict) and not value


def _is_none(value: Any) -> bool:
    return value is None


def _are_ids(value: Any) -> bool:
    return list_of(_is_id)(value) and len(value) > 0


def _are_rising_ids(value: Any) -> bool:
    return _are_ids(value) and all(a < b for a, b in pairwise(value))


def _are_weights(value: Any) -> bool:
    return dict_of(is_text, lambda v: isinstance(v, Tensor))(value) and len(value) > 0


_sums = record(names=list_of(is_text), total=list_of(_is_float), steps=is_count)


def _are_sums(value: Any) -> bool:
    return _sums(value) and len(value["names"]) == len(value["total"])


_meter = record(losses=_are_sums, events=_are_sums, counts=dict_of(is_text, _is_float), step_losses=list_of(_is_float))
_collected = record(
    recent=_meter, epoch=_meter, told=is_count, waited=is_number, seconds=is_number, seconds_since=is_number
)


def _are_collected(value: Any) -> bool:
    """Of the same terms on every rank; what another version collected is not used."""
    if not list_of(lambda v: isinstance(v, dict))(value):
        return False
    schema = value[0].get("schema") if value else None
    if schema is None or (is_count(schema) and schema != LOG_SCHEMA):
        return True
    return is_count(schema) and all(map(_collected, value)) and len({_terms(v) for v in value}) == 1


def _terms(rank: Mapping[str, Any]) -> tuple:
    meters = (rank["recent"], rank["epoch"])
    return tuple((tuple(m["losses"]["names"]), tuple(m["events"]["names"]), len(m["step_losses"])) for m in meters)


_loss_scale = record(
    scale=lambda v: is_number(v) and v > 0,
    growth_factor=lambda v: is_number(v) and v > 1,
    backoff_factor=lambda v: is_number(v) and 0 < v < 1,
    growth_interval=is_count,
    _growth_tracker=is_count,
)
_operating_point = record(rule=is_text, target=is_number, threshold=lambda v: is_number(v) and 0 <= v <= 1)

_WEIGHTS = "a dict of tensors by name"
_COUNT = "a whole number from 0 on"
PARTS = {
    "config": Part("a dict of plain values by the name of their knob", dict_of(is_text, _is_plain), may_be_none=True),
    "model_keys": Part("a list of names", list_of(is_text)),
    "cut": Part("three whole numbers from 1 on", list_of(lambda v: is_count(v) and v > 0, 3)),
    "num_images": Part(_COUNT, is_count),
    "category_ids": Part("a list of whole numbers from 0 on", _are_ids, is_ours_alone=False),
    "class_ids": Part("a list of rising whole numbers from 0 on", _are_rising_ids, is_ours_alone=False),
    "category_names": Part(
        'a dict of names by category id as text, such as {"1": "ActiveTuberculosis"}',
        dict_of(_is_category, is_text),
        may_be_none=True,
        is_ours_alone=False,
    ),
    "model": Part(_WEIGHTS, _are_weights),
    "ema": Part(_WEIGHTS, _are_weights, may_be_none=True),
    "optimizer": Part(
        "a dict with state and param_groups, as an optimizer of PyTorch has it",
        record(
            state=dict_of(is_count, lambda v: isinstance(v, dict)),
            param_groups=list_of(record(params=list_of(is_count), lr=is_number)),
        ),
    ),
    "scaler": Part("an empty dict or the state of a GradScaler", either(_is_empty, _loss_scale)),
    "denominator": Part(
        "an empty dict, or boxes_per_step: None or a number above 0",
        either(_is_empty, record(boxes_per_step=either(_is_none, lambda v: is_number(v) and v > 0))),
    ),
    "version": Part("the version of the program that wrote it", is_text),
    "attention": Part("the name of an attention backend", is_text),
    **{name: Part(_COUNT, is_count) for name in ("epoch", "step", "window", "skipped", "rows", "judged")},
    "collected": Part("a list, by rank, of what the log of training had collected", _are_collected),
    "best": Part(
        "an empty dict, or metric, value and epoch of the best evaluation",
        either(_is_empty, record(metric=is_text, value=is_number, epoch=is_count)),
    ),
    "operating_point": Part(
        "an empty dict, or rule, target and a threshold from 0 to 1",
        either(_is_empty, _operating_point),
        is_ours_alone=False,
    ),
}


def problem_of(content: Mapping[Any, Any]) -> str | None:
    """The first problem of a checkpoint's content, of this repository or official; None where there is none.

    Parts that other programs write by the same name are looked at only in a checkpoint of this repository, which has
    a config inside. Tensors are looked at wherever they are.
    """
    for name, tensor in _tensors(content):
        if problem := tensor_problem(tensor):
            return f"{name} is {problem}, expected a dense tensor of numbers, all of them in the file"
    is_ours = "config" in content
    for name, part in PARTS.items():
        if name not in content or (part.is_ours_alone and not is_ours):
            continue
        value = content[name]
        if not (part.fits(value) or (part.may_be_none and value is None)):
            return f"{name} is {describe(value)}, expected {part.expected}"
    return next(filter(None, (rule(content) for rule in RULES)), None) if is_ours else None


def tensor_problem(tensor: Tensor) -> str | None:
    """Why a tensor cannot be used, being none of plain numbers in memory; None where it can."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"a {'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')} tensor"
    if tensor.device.type != "cpu":
        return f"a tensor without content (device {tensor.device})"
    if tensor.dtype not in NUMBERS:
        return f"a tensor of {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        shape = " x ".join(map(str, tensor.shape))
        return f"a tensor of {shape} that repeats {tensor.untyped_storage().nbytes()} bytes"
    return None


def describe(value: Any) -> str:
    """A short description of any value of a file, some of which have no end when written out."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict):
        keys = ", ".join(k if isinstance(k, str) else f"a key of type {type(k).__name__}" for k in list(value)[:4])
        return f"a dict of {len(value)} entries" + (f" ({_short(keys)})" if keys else "")
    if isinstance(value, list | tuple | set):
        return f"a {type(value).__name__} of {len(value)} entries"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a whole number without bounds"
    return _short(repr(value)) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, with the keys that lead to it; containers may hold themselves."""
    waiting = [("", content)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{k}" if name else str(k), v) for k, v in items if isinstance(k, str | int)]


def _ids_have_names(content: Mapping[str, Any]) -> str | None:
    ids = content.get("category_ids")
    names = content.get("category_names")
    if ids is None or names is None or sorted(ids) == sorted(map(int, names)):
        return None
    return f"category_names name {_short(', '.join(names))}, expected the category_ids {_short(str(sorted(ids)))}"


def _ids_are_classes(content: Mapping[str, Any]) -> str | None:
    config = content["config"] or {}
    ids = [*(content.get("category_ids") or ()), *map(int, content.get("category_names") or ())]
    num_classes = config.get("num_classes")
    if (class_ids := content.get("class_ids")) is not None:
        if set(ids) <= set(class_ids) and num_classes == len(class_ids):
            return None
        return f"class_ids are {_short(str(class_ids))}, expected those of its categories, {num_classes} as num_classes"
    if num_classes is None or not is_count(num_classes) or max(ids, default=0) < num_classes:
        return None
    return f"category_ids reach {max(ids)}, expected less than num_classes = {num_classes} of its config"


def _position_is_one(content: Mapping[str, Any]) -> str | None:
    """Neither the steps of the current epoch nor the skipped ones can be more than all steps."""
    for part in ("window", "skipped"):
        if content.get(part, 0) > content.get("step", LARGEST):
            return f"{part} is {content[part]}, expected at most step = {content['step']}"
    return None


RULES = (_ids_have_names, _ids_are_classes, _position_is_one)
