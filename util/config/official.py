"""Recognise a config file of the official code, and turn it into one of this repository.

The file is parsed and not executed.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.base.text import first_few, printable
from util.config.errors import ConfigError
from util.config.official_keys import OFFICIAL_KEYS_WITHOUT_MEANING
from util.config.official_values import ARGUMENTS, DEFAULTS, LAUNCHED, VARIANTS
from util.config.schema import KNOBS

RECIPES = Path(__file__).resolve().parents[2] / "config" / "DINO"
OFFICIAL_BASE = "coco_transformer.py"
SURE_KEYS = ("modelname", "two_stage_type", "decoder_module_seq", "dec_pred_bbox_embed_share", "embed_init_tgt")
ENOUGH = 2  # of these keys: somebody may have copied one of them into a recipe of this repository
MAX_BYTES = 1 << 18
MOST_BASES = 5  # in a chain
MOST_LETTERS = 200  # of a line in a message
COMPUTED = object()
MOST_LINES = 8  # of changes in a message


@dataclass
class Translation:
    """What an official config means here.

    Args:
        recipe: file of this repository with the same recipe.
        changes: knobs that the file sets otherwise than the official one of that recipe.
        left: keys with another value than the official one that mean nothing here, with the reason.
        differs: official values of the file that the recipe here does not have.
    """

    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)


def refuse_official(path: Path) -> None:
    """Refuse a config file of the official code before it is executed.

    Raises:
        ConfigError: it is one: the recipe here that is the same, what the file changes, and how to convert it.
    """
    values = official_values(path) if path.is_file() else None
    if values is None:
        return
    found = translate(values)
    lines = [*_assignments(found.changes), *(f"not carried over: {text}" for text in found.left)]
    more = [f"{len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    changes = "\n  ".join(["your changes:", *lines[:MOST_LINES], *more] if lines else ["it changes nothing of that"])
    raise ConfigError(
        f"{path}: is an official config; the same recipe here is config/DINO/{found.recipe}{_with(found.differs)}. "
        f"python main.py --from_official {path} writes a config with your changes; {changes}"
    )


def official_values(path: Path) -> dict[str, Any] | None:
    """The plain values that a file assigns, with those of its bases beside it; None where it is not an official config.

    A dump of the official code (config_cfg.py, config_args_all.json) is one too.
    """
    own = _parsed(path)
    has_official_base = OFFICIAL_BASE in [Path(base).name for base in _bases(own)]
    if not has_official_base and sum(key in own for key in SURE_KEYS) < ENOUGH:
        return None
    return _with_bases(path, own)


def _with_bases(path: Path, own: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for base in _bases(own) if depth < MOST_BASES else []:
        merged |= _with_bases(path.parent / base, _parsed(path.parent / base), depth + 1)
    return merged | own


def _parsed(path: Path) -> dict[str, Any]:
    """The values that a file assigns, `COMPUTED` where they are not plain; empty where it is no such file."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8-sig")
        if path.suffix == ".json":
            found = json.loads(text)
            return found if isinstance(found, dict) else {}
        statements = ast.parse(text).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    own: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                own[statement.targets[0].id] = ast.literal_eval(statement.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                own[statement.targets[0].id] = COMPUTED
    return own


def _bases(values: Mapping[str, Any]) -> list[str]:
    bases = values.get("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    return [base for base in bases if isinstance(base, str)] if isinstance(bases, list | tuple) else []


def translate(values: Mapping[str, Any]) -> Translation:
    """Find the recipe of this repository that is nearest to an official config, and the knobs that differ."""
    backbone = str(values.get("backbone", DEFAULTS["backbone"]))
    kind = next((kind for kind in ("swin", "convnext") if backbone.startswith(kind)), None)
    five = values.get("num_feature_levels") == VARIANTS["DINO_5scale"]["num_feature_levels"]
    name = f"DINO_4scale_{kind}" if kind else "DINO_5scale" if five else "DINO_4scale"
    official = {**DEFAULTS, **LAUNCHED, **VARIANTS[name]}
    plain = {k: v for k, v in values.items() if v is not COMPUTED and not k.startswith("_")}
    changed = {k: v for k, v in plain.items() if k not in ARGUMENTS and not (k in official and official[k] == v)}
    found = Translation(f"{name}.py")
    found.left += [f"{key} is computed in the file; set its value here" for key, v in values.items() if v is COMPUTED]
    for key, value in changed.items():
        if key in TRANSLATED:
            try:
                found.changes |= TRANSLATED[key]({**official, **plain})
            except (TypeError, ValueError):
                found.left.append(f"{key} = {value!r} is not what the official code takes")
        elif key in KNOBS:
            found.changes[key] = value
        elif key in OFFICIAL_KEYS_WITHOUT_MEANING:
            found.left.append(f"{key} = {value!r}: it {OFFICIAL_KEYS_WITHOUT_MEANING[key]}")
        else:
            found.left.append(f"{key} = {value!r}: is no key of the official recipes and none here")
    for key, value in SAME_HERE.items():
        if found.changes.get(key) == value:
            del found.changes[key]
    ours = _with_bases(RECIPES / found.recipe, _parsed(RECIPES / found.recipe))
    unchanged = (key for key in plain if key in ours and key not in {*TRANSLATED, *changed})
    found.differs = [f"{key} {ours[key]!r} instead of {plain[key]!r}" for key in unchanged if ours[key] != plain[key]]
    found.left = [printable(text[:MOST_LETTERS]) for text in found.left]
    return found


def _drops(official: Mapping[str, Any]) -> dict[str, Any]:
    """The official code drops the rate at the epochs of a list, or else every `lr_drop` epochs."""
    if official["multi_step_lr"]:
        return {"lr_drop": official["lr_drop_list"]}
    every, epochs = official["lr_drop"], official["epochs"]
    if not (type(every) is int and type(epochs) is int and every > 0):
        return {"lr_drop": every}
    return {"lr_drop": list(range(every, epochs, every))}


def _scales(official: Mapping[str, Any]) -> dict[str, Any]:
    """The official code multiplies all sizes by `data_aug_scale_overlap`."""
    factor = official["data_aug_scale_overlap"] or 1
    names = ("data_aug_scales", "data_aug_max_size", "data_aug_scales2_resize", "data_aug_scales2_crop")
    sizes = {name: official[name] for name in names}
    whole = {n: [int(v * factor) for v in s] if isinstance(s, list) else int(s * factor) for n, s in sizes.items()}
    changed = {n: v for n, v in whole.items() if v != DEFAULTS[n]}
    scales = whole["data_aug_scales"]
    largest = max(scales) if isinstance(scales, list) else scales  # the official evaluation takes this one
    return changed | ({"data_eval_scale": largest} if largest != max(DEFAULTS["data_aug_scales"]) else {})


SAME_HERE = {"epochs": DEFAULTS["epochs"], "lr_drop": [DEFAULTS["lr_drop"]]}  # as in the recipes
# official key -> the knobs that say the same, from all official values
TRANSLATED = {
    **dict.fromkeys(
        ("lr_drop", "lr_drop_list", "multi_step_lr", "epochs"), lambda v: {"epochs": v["epochs"], **_drops(v)}
    ),
    **dict.fromkeys(
        ("data_aug_scales", "data_aug_max_size", "data_aug_scales2_resize", "data_aug_scales2_crop"), _scales
    ),
    "data_aug_scale_overlap": _scales,
    "amp": lambda v: {"amp": "fp16"} if v["amp"] else {},
    "use_checkpoint": lambda v: {"activation_checkpointing": bool(v["use_checkpoint"])},
    "nms_iou_threshold": lambda v: {"nms_iou_threshold": max(0.0, v["nms_iou_threshold"])},
    "use_dn": lambda v: {} if v["use_dn"] else {"dn_number": 0},
    "dn_number": lambda v: {"dn_number": v["dn_number"] if v["use_dn"] else 0},
    "ddetr_lr_param": lambda v: {"param_dict_type": "ddetr_in_mmdet"} if v["ddetr_lr_param"] else {},
}


def _with(differs: list[str]) -> str:
    return f" (with {first_few(differs)})" if differs else ""


def _assignments(changes: Mapping[str, Any]) -> list[str]:
    return [printable(f"{key} = {value!r}"[:MOST_LETTERS]) for key, value in changes.items()]


def default_target(path: Path) -> Path:
    """Where the config goes that an official one becomes, beside the recipes."""
    return RECIPES / f"{path.stem}_from_official.py"


def write_from_official(path: Path, target: Path) -> str:
    """Write a config of this repository with the changes of an official one; what was done, for the console.

    Raises:
        ConfigError: the file is not there or not an official config, or the new file exists.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; --from_official takes a config of the official code")
    values = official_values(path)
    if values is None:
        keys = first_few(SURE_KEYS)
        raise ConfigError(f"{path}: is not a config of the official code, which sets {keys}; expected such a file")
    if target.exists():
        raise ConfigError(f"{target}: exists; choose another file with --output_config, or remove it")
    found = translate(values)
    text = "".join(f"{line}\n" for line in _file_of(found, target))
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent}: there is no such folder; make it, or choose another --output_config")
    target.write_text(text, encoding="utf-8")
    recipe = f"config/DINO/{found.recipe}{_with(found.differs)}"
    lines = [f"{target}: {recipe} with {len(found.changes)} changes of {path}"]
    lines += [f"  {line}" for line in _assignments(found.changes)]
    return "\n".join([*lines, *(f"  not carried over: {text}" for text in found.left)])


def _file_of(found: Translation, target: Path) -> Iterator[str]:
    base = Path(os.path.relpath(RECIPES / found.recipe, target.resolve().parent)).as_posix()
    shown = printable(str(target)).replace("\\", "/").replace('"', "'")
    yield f'"""{found.recipe.removesuffix(".py")} with the changes of an official config.'
    yield ""
    yield f"    python main.py --config_file {shown} --data_path DIR --output_dir logs/RUN"
    yield '"""'
    yield ""
    yield f"_base_ = {base!r}"
    yield ""
    yield from (f"{key} = {value!r}" for key, value in found.changes.items())
    yield from (f"# {text}" for text in found.left)
