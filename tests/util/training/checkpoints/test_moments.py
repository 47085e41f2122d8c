"""The optimizer goes on only with moments of its own weights, and with its own settings."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.files.hostile_checkpoints import wrong_optimizers
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.moments import require_moments
from util.training.checkpoints.schema import PARTS
from util.training.denominator import Denominator
from util.training.ema import WeightAverage
from util.training.optimizer import build_optimizer
from util.training.precision import Precision
from util.training.run_state import RunState


def trained(is_fused=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    rates = {"lr": 1e-3, "lr_backbone": 1e-4, "lr_linear_proj_mult": 0.1, "weight_decay": 0.1}
    optimizer = build_optimizer(model, kind="large_wd", **rates, is_fused=is_fused)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_its_own_state_is_accepted_and_so_is_none_yet(tmp_path):
    _, optimizer = trained()
    state = optimizer.state_dict()
    require_moments(optimizer, state, tmp_path)
    require_moments(optimizer, {**state, "state": {}}, tmp_path)


def test_each_wrong_state_is_refused_with_the_parameter(tmp_path):
    _, optimizer = trained()
    cases = [c for c in wrong_optimizers(optimizer.state_dict()) if is_of_the_schema(c)]
    assert len(cases) >= 10
    for case in cases:
        with pytest.raises(CheckpointError, match=r"other groups of parameters|for parameter"):
            require_moments(optimizer, case, tmp_path)


def is_of_the_schema(state):
    """Whether only a look at the model's parameters can find it out."""
    has_own_settings = any("more" in group for group in state["param_groups"])
    return PARTS["optimizer"].fits(state) and not has_own_settings


@pytest.mark.parametrize("is_fused", [False, True])
def test_moments_are_loaded_with_the_settings_in_force_not_those_of_the_file(monkeypatch, is_fused):
    """PyTorch places the step counts by the flag `fused` of what it loads; on a GPU another one than ours crashes."""
    loaded = []
    model, ours = trained(is_fused)
    _, theirs = trained(not is_fused)
    state = theirs.state_dict()
    for group in state["param_groups"]:
        group.update(lr=7e-5, betas=(0.1, 0.2), weight_decay=9.0, left_over=1)
    real = ours.load_state_dict
    monkeypatch.setattr(ours, "load_state_dict", lambda content: loaded.append(content) or real(content))
    settings = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in ours.param_groups]
    run = RunState(model, WeightAverage(model, 0.0, 0), ours, Precision("off", "cpu"), Denominator(), {})
    run._restore_optimizer(state, Path("a.pth"))
    [content] = loaded
    assert [g["fused"] for g in content["param_groups"]] == [is_fused] * len(settings)
    assert [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in ours.param_groups] == settings
    assert {g["lr"] for g in ours.param_groups} == {7e-5}, "that of the last step"
    assert all("left_over" in g for g in state["param_groups"]), "the content of the file is not changed"
    model(torch.ones(1, 2)).sum().backward()
    ours.step()
