"""Check the optimizer state of a checkpoint, as PyTorch accepts any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.schema import describe, is_number

MOMENTS = ("exp_avg", "exp_avg_sq")
ENTRIES = {"step", *MOMENTS}


def require_moments(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any], path: Path) -> None:
    """Require that the state of an AdamW fits the optimizer that resumes with it.

    Raises:
        CheckpointError: other groups, state of weights that are in no group, or moments that are not of their weight.
    """
    expected_groups = optimizer.param_groups
    groups = state_dict["param_groups"]
    sizes = [len(g["params"]) for g in expected_groups], [len(g["params"]) for g in groups]
    ids = [i for group in groups for i in group["params"]]
    if sizes[0] != sizes[1] or len(set(ids)) != len(ids):
        raise CheckpointError(
            f"{path}: its optimizer has other groups of parameters ({sizes[1]} instead of {sizes[0]}); resume with its "
            "param_dict_type and decay_norms_and_biases, or use --pretrain_model_path for its weights"
        )
    weights = dict(zip(ids, (p for group in expected_groups for p in group["params"]), strict=True))
    for number, state in state_dict["state"].items():
        problem = _problem(state, weights[number]) if number in weights else "expected no such parameter"
        if problem:
            raise CheckpointError(
                f"{path}: cannot be resumed: state of its optimizer for parameter {number}: {problem}. "
                "Take another checkpoint, or use --pretrain_model_path for its weights"
            )


def _problem(state: Mapping[str, Any], weight: Tensor) -> str | None:
    if state.keys() != ENTRIES:
        return f"{describe(dict(state))}, expected {', '.join(sorted(ENTRIES))}"
    for name in MOMENTS:
        moment = state[name]
        expected = f"expected floating-point numbers of shape {list(weight.shape)}"
        if not isinstance(moment, Tensor) or not moment.is_floating_point() or moment.shape != weight.shape:
            shape = f" {list(moment.shape)}" if isinstance(moment, Tensor) else ""
            return f"{name} is {describe(moment)}{shape}, {expected}"
        if torch.isnan(moment).any():  # the square of a large gradient may be infinite: its weight stands still
            return f"{name} holds NaN"
    step = state["step"]
    value = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if not is_number(value) or value < 0:
        return f"step is {describe(value)}, expected one number from 0 on"
    return None if (state["exp_avg_sq"] >= 0).all() else "exp_avg_sq holds numbers below 0"
