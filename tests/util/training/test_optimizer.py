import pytest
import torch
from torch import nn

from models import build_model
from tests.helpers.golden.model import CONFIG, table
from util.config import load_config
from util.training.optimizer import build_optimizer, learning_rates, set_learning_rate, trainable_parts

RATES = {"lr": 1e-4, "lr_backbone": 1e-5, "lr_linear_proj_mult": 0.1, "weight_decay": 1e-4}


@pytest.fixture(scope="module")
def official():
    with torch.device("meta"):
        return build_model(load_config(CONFIG))[0]


def small():
    """A backbone and a rest, with a frozen part."""
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "rest": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model


@pytest.mark.parametrize("kind", ["default", "ddetr_in_mmdet", "large_wd"])
def test_groups_are_the_official_ones(official, kind):
    names = {id(p): name for name, p in official.named_parameters()}
    optimizer = build_optimizer(official, kind=kind, **RATES)
    wanted = [group for group in table("components")["optimizer_groups"][kind] if group["names"]]
    assert len(optimizer.param_groups) == len(wanted)
    for group, gold in zip(optimizer.param_groups, wanted, strict=True):
        assert [names[id(p)] for p in group["params"]] == gold["names"]
        assert group["lr"] == group["base_lr"] == pytest.approx(gold["lr"])
        assert group["weight_decay"] == gold["weight_decay"]
        assert (list(group["betas"]), group["eps"]) == (gold["betas"], gold["eps"])
        assert sum(p.numel() for p in group["params"]) == gold["numel"]


@pytest.mark.parametrize("kind", ["default", "ddetr_in_mmdet", "large_wd"])
def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one_in_any(official, kind):
    optimizer = build_optimizer(official, kind=kind, **RATES)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted({id(p) for p in official.parameters() if p.requires_grad})
    frozen = {name for name, p in official.named_parameters() if not p.requires_grad}
    assert frozen == set(table("components")["optimizer_groups"]["frozen_not_in_any_group"])


def test_the_rates_follow_the_factor_and_not_each_other():
    optimizer = build_optimizer(small(), kind="default", **RATES)
    for factor in (0.5, 0.1, 1.0):
        set_learning_rate(optimizer, factor)
        assert learning_rates(optimizer) == pytest.approx({"lr": 1e-4 * factor, "lr_backbone": 1e-5 * factor})


def test_a_frozen_backbone_has_no_rate_to_tell():
    model = small()
    model["backbone"].requires_grad_(False)
    assert learning_rates(build_optimizer(model, kind="default", **RATES)) == {"lr": 1e-4}


def test_the_position_of_a_step_survives_a_saved_optimizer():
    optimizer = build_optimizer(small(), kind="default", **RATES)
    set_learning_rate(optimizer, 0.1)
    again = build_optimizer(small(), kind="default", **RATES)
    again.load_state_dict(optimizer.state_dict())
    set_learning_rate(again, 1.0)
    assert learning_rates(again) == {"lr": 1e-4, "lr_backbone": 1e-5}


def test_parts_tell_what_is_trained_of_what_there_is():
    assert trainable_parts(small()) == {"backbone": [6, 6], "rest": [6, 6], "frozen": [0, 6]}


def test_the_parts_of_the_official_network_are_all_there_with_its_heads_apart(official):
    parts = trainable_parts(official)
    heads = {"class_embed", "bbox_embed", "enc_out_class_embed", "enc_out_bbox_embed"}
    assert heads | {"backbone", "encoder", "decoder", "input_proj", "label_enc"} <= parts.keys()
    assert sum(total for _, total in parts.values()) == sum(p.numel() for p in official.parameters())
    trained = sum(p.numel() for p in official.parameters() if p.requires_grad)
    assert sum(number for number, _ in parts.values()) == trained
    assert parts["backbone"] == [23_232_512, 23_454_912]  # its stem and first stage are frozen
    assert all(number == total for name, (number, total) in parts.items() if name != "backbone")


def test_a_frozen_head_shows():
    with torch.device("meta"):
        model = build_model(load_config(CONFIG))[0]
    model.transformer.decoder.class_embed.requires_grad_(False)
    (trained, total) = trainable_parts(model)["class_embed"]
    assert (trained, total > 0) == (0, True)


@pytest.mark.parametrize("kind", ["default", "ddetr_in_mmdet", "large_wd"])
def test_without_decay_of_vectors_every_rate_stays_and_only_matrices_decay(official, kind):
    plain = build_optimizer(official, kind=kind, **RATES)
    rates = {id(p): group["lr"] for group in plain.param_groups for p in group["params"]}
    optimizer = build_optimizer(official, kind=kind, decays_vectors=False, **RATES)
    assert {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]} == rates
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    vectors = {id(p) for p in official.parameters() if p.requires_grad and p.ndim < 2}
    assert {key for key, decay in decays.items() if decay == 0.0} >= vectors
    if kind != "large_wd":  # which leaves some matrices out by their names
        assert {key for key, decay in decays.items() if decay == 0.0} == vectors


def test_the_position_biases_of_swin_do_not_decay():
    with torch.device("meta"):
        model = build_model(load_config(CONFIG, ["backbone=swin_T_224_1k", "backbone_freeze_at=0"]))[0]
    optimizer = build_optimizer(model, kind="default", decays_vectors=False, **RATES)
    without = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    tables = [id(p) for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")]
    assert tables
    assert without >= set(tables)
