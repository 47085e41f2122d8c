"""Variations of a checkpoint with one part that is not what it should be."""

import copy
import random

import torch

VALUES = {
    "None": None,
    "huge": 10**30,
    "below 0": -1,
    "true": True,
    "half": 0.5,
    "nan": float("nan"),
    "text": "x",
    "dict": {"a": 1},
    "list": [1, [2]],
    "empty": [],
    "tensor": torch.zeros(2),
}


def endless():
    """A list that holds itself."""
    values = [1]
    values.append(values)
    return values


def deep():
    """A list in a list in a list, and so on."""
    values = []
    for _ in range(100):
        values = [values]
    return values


TENSORS = {
    "empty": lambda v: v[..., :0] if v.ndim else v,
    "whole numbers": lambda v: v.to(torch.int64),
    "complex": lambda v: v.to(torch.complex64),
    "sparse": lambda v: v.to_sparse(),
    "compressed": lambda v: v.to_sparse_csr() if v.ndim == 2 else v.to_sparse(),
    "meta": lambda v: v.to("meta"),
    "expanded": lambda v: torch.zeros(1, dtype=v.dtype).expand(v.shape),
    "terabytes": lambda _: torch.zeros(1).expand(10**6, 10**6),
    "quantized": lambda v: torch.quantize_per_tensor(v.float(), 1.0, 0, torch.qint8),
    "nested": lambda v: torch.nested.nested_tensor([v.float(), v.float()]),
    "nan": lambda v: torch.full_like(v, float("nan")),
    "float8": lambda v: v.to(torch.float8_e4m3fn),
    "other": lambda _: 3.0,
}


def by_part(content):
    """(label, content): each part as each value."""
    for part in content:
        for label, value in VALUES.items():
            yield f"{part}={label}", {**content, part: value}
        yield f"{part}=endless", {**content, part: endless()}
        yield f"{part}=deep", {**content, part: deep()}
        yield f"{part} is not there", {k: v for k, v in content.items() if k != part}


def by_tensor(content):
    """(label, content): one tensor or all of a part as none that can be used."""
    state = content["optimizer"]["state"]
    for label, change in TENSORS.items():
        for part in ("model", "ema"):
            names = [n for n, v in content[part].items() if v.ndim and v.is_floating_point()]
            every = {n: change(v) if n in names else v for n, v in content[part].items()}
            one = {**content[part], names[5]: change(content[part][names[5]])}
            yield f"all of {part} {label}", {**content, part: every}
            yield f"one of {part} {label}", {**content, part: one}
        moments = {
            i: {**s, "exp_avg": change(s["exp_avg"]) if s["exp_avg"].ndim else s["exp_avg"]} for i, s in state.items()
        }
        yield f"moments {label}", {**content, "optimizer": {**content["optimizer"], "state": moments}}


CONFIGS = [
    {"num_workers": 10**6},
    {"num_queries": 0},
    {"num_queries": 20_000},
    {"dim_feedforward": 65_536},
    {"num_classes": 100_000, "dn_labelbook_size": 100_000},
    {5: 6},
    {"val_list": "../../../../etc/passwd"},
    {"val_list": "\0"},
    {"data_aug_scales": torch.zeros(2)},
    {"data_aug_scales": [10**30]},
    {"backbone": "hf-hub:some/model"},
    {"backbone": "resnet18"},
    {"num_classes": 3},
    {"num_classes": 2},
    {"restrict_to_categories": False},
    {"lr": 10**400},
    {"seed": -1},
    {"no_such_knob": 1},
    {"image_head": True},
    {"amp": "fp16"},
    {"eval_batch_size": 10**9},
]


def wrong_optimizers(optimizer):
    """States of an optimizer that are not those of the model."""
    state, groups = optimizer["state"], optimizer["param_groups"]
    return [
        {"state": {}, "param_groups": []},
        {"state": {0: {}}, "param_groups": groups},
        {"state": {0: 3}, "param_groups": groups},
        {"state": {**state, 10**6: state[0]}, "param_groups": groups},
        {"state": {**state, "x": state[0]}, "param_groups": groups},
        {"state": {i: state[0] for i in state}, "param_groups": groups},
        {"state": {i: {**s, "step": torch.tensor(float("nan"))} for i, s in state.items()}, "param_groups": groups},
        {"state": {i: {**s, "step": torch.zeros(2)} for i, s in state.items()}, "param_groups": groups},
        {"state": {i: {**s, "step": "x"} for i, s in state.items()}, "param_groups": groups},
        {"state": {i: {**s, "exp_avg_sq": -s["exp_avg_sq"] - 1} for i, s in state.items()}, "param_groups": groups},
        {"state": state, "param_groups": [{**g, "params": []} for g in groups]},
        {"state": state, "param_groups": [{**g, "params": [0] * len(g["params"])} for g in groups]},
        {"state": state, "param_groups": [{"params": g["params"]} for g in groups]},
        {"state": state, "param_groups": [{**g, "lr": "x", "betas": 3} for g in groups]},
        {"state": state, "param_groups": [{**g, "betas": 3, "foreach": "x", "more": 1} for g in groups]},
        {"state": state, "param_groups": groups[:1]},
    ]


def by_entry(content):
    """(label, content): entries of parts that would be found out late."""
    point, best = content["operating_point"], content["best"]
    many = {
        "category_names": [{"1": 5}, {"x": "a"}, {"-1": "a"}, {"9" * 12: "a"}, {"1": "a", "2": "b"}, {}, {1: "a"}],
        "category_ids": [[1, 2, 99], [3, 2, 1], [1, 1, 1], [], ["1", "2", "3"], [1.0, 2.0, 3.0], [0, 1, 2]],
        "operating_point": [{"threshold": t} for t in ("x", None, [1], 10**400, 0.5)]
        + [{**point, "threshold": t} for t in (float("nan"), 2.0, -1.0, "x", None)]
        + [{"threshold": 0.5, "rule": 3, "target": "x"}],
        "best": [{"value": "x"}, {"metric": 1}, {**best, "value": float("nan")}, {**best, "epoch": None}],
        "cut": [[0, 0, 0], [1, 2], ["a", "b", "c"], [1, 2, 10**9], [2.0, 2, 1], [4, 1, 1]],
        "model_keys": [[], ["num_queries", "no_such_knob"], [1]],
        "window": [2, 3, 4, 10**6],
        "step": [0, 1, 10**9],
        "epoch": [2, 3, 10**9],
        "rows": [0, 1, 10**12],
        "judged": [10**9],
        "num_images": [0, 1, 10**9],
        "scaler": [{"scale": "x"}, {"scale": 0.0}, {"scale": float("inf"), "growth_factor": 2.0}],
        "denominator": [{"boxes_per_step": v} for v in ("x", 0, -1.0, float("nan"), [1])],
        "optimizer": wrong_optimizers(content["optimizer"]),
        "config": [{**content["config"], **change} for change in CONFIGS],
    }
    for part, values in many.items():
        for number, value in enumerate(values):
            yield f"{part} variation {number}: {str(value)[:40]}", {**content, part: value}


def by_chance(content, count=120, seed=0):
    """(label, content): one entry somewhere inside, without the tensors, is another value, is gone, or is doubled."""
    draw = random.Random(seed)
    parts = [p for p in content if p not in ("model", "ema") and isinstance(content[p], dict | list) and content[p]]
    for number in range(count):
        part = draw.choice([*parts, "collected", "collected", "optimizer"])
        changed = copy.copy(content)
        changed[part], trail = changed_inside(content[part], draw)
        yield f"chance {number}: {part}{trail}", changed


def changed_inside(value, draw):
    """A copy of a container with one entry changed, and where."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    inner = value[key]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.8:
        inner, trail = changed_inside(inner, draw)
    else:
        label = draw.choice(list(VALUES))
        inner, trail = VALUES[label], f"={label}"
    changed = copy.copy(value)
    if trail.startswith("=") and draw.random() < 0.2:
        del changed[key]
        return changed, f".{key} is not there"
    changed[key] = inner
    return changed, f".{key}{trail}"
