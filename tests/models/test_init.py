"""A fresh network is distributed as the official one."""

import math

import pytest
import torch

from models import build_model
from tests.helpers.golden.model import CONFIG, table
from util.config import load_config


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return build_model(load_config(CONFIG))[0]


@pytest.fixture(scope="module")
def tensors(fresh):
    return fresh.state_dict()


GOLD = {name: stats for name, stats in table("components")["init_stats"].items() if not name.startswith("_")}
FACTS = {name: fact for name, fact in table("components")["init_stats"].items() if name.startswith("_")}
CONSTANT = sorted(name for name, stats in GOLD.items() if stats["min"] == stats["max"])
DRAWN = sorted(set(GOLD) - set(CONSTANT))


def test_every_parameter_outside_the_backbone_is_compared(fresh):
    assert {name for name, _ in fresh.named_parameters() if not name.startswith("backbone.")} == set(GOLD)


def test_constants_are_the_official_ones(tensors):
    assert "transformer.encoder.layers.0.norm1.weight" in CONSTANT
    for name in CONSTANT:
        assert torch.all((tensors[name] - GOLD[name]["min"]).abs() < 1e-6), name


def test_drawn_tensors_are_distributed_as_the_official_ones(tensors):
    """Two samples of one distribution: means differ by few standard errors, deviations by few of theirs.

    Five standard errors of the difference: over a hundred and fifty tensors it is exceeded once in ten thousand runs.
    """
    for name in DRAWN:
        stats, values = GOLD[name], tensors[name].double()
        count = values.numel()
        assert abs(values.mean() - stats["mean"]) < 5 * math.sqrt(2 / count) * stats["std"], name
        std = values.std(unbiased=False).item()
        assert abs(std - stats["std"]) < 5 * math.sqrt(2 / count) * stats["std"], name


def test_uniform_draws_have_the_official_bounds(tensors):
    for name in DRAWN:
        stats, values = GOLD[name], tensors[name]
        is_uniform = abs(stats["std"] * math.sqrt(3) / stats["max"] - 1) < 0.02 and values.numel() > 1000
        if is_uniform:
            assert values.max() == pytest.approx(stats["max"], rel=0.03), name
            assert values.min() == pytest.approx(stats["min"], rel=0.03), name


def test_the_class_heads_start_at_a_score_of_one_percent(fresh):
    for head in (fresh.class_embed[0], fresh.transformer.enc_out_class_embed):
        assert head.bias.sigmoid().tolist() == pytest.approx([0.01] * 91, rel=1e-5)


def test_the_box_heads_start_by_changing_nothing(fresh):
    for head in (fresh.bbox_embed[0], fresh.transformer.enc_out_bbox_embed):
        assert head(torch.randn(5, 256)).abs().max() == 0


def test_the_heads_of_all_decoder_layers_are_one(fresh):
    decoder = fresh.transformer.decoder
    assert fresh.bbox_embed is decoder.bbox_embed
    assert len({id(head) for head in (*decoder.bbox_embed, *fresh.bbox_embed)}) == 1
    assert len({id(head) for head in (*decoder.class_embed, *fresh.class_embed)}) == 1


def test_the_heads_of_the_encoder_start_equal_and_are_others(fresh):
    pairs = [
        (fresh.transformer.enc_out_bbox_embed, fresh.bbox_embed[0]),
        (fresh.transformer.enc_out_class_embed, fresh.class_embed[0]),
    ]
    for ours, theirs in pairs:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
            assert one.data_ptr() != other.data_ptr()


def test_sampling_starts_where_the_official_code_looks(tensors):
    offsets = [tensor for name, tensor in tensors.items() if name.endswith("sampling_offsets.bias")]
    assert len(offsets) == 12
    for bias in offsets:
        wanted = FACTS["_sampling_offsets_bias_values"]
        assert bias[: len(wanted)].tolist() == pytest.approx(wanted, abs=1e-5)


def test_layers_start_with_equal_biases_other_weights_and_are_independent(fresh):
    layers = fresh.transformer.encoder.layers
    for part in ("weight", "bias"):
        one, other = (getattr(layer.linear1, part) for layer in (layers[0], layers[1]))
        assert torch.equal(one, other) == FACTS[f"_enc_layers_linear1_{part}_identical_at_init"]
    assert layers[0].linear1.bias.data_ptr() != layers[1].linear1.bias.data_ptr()


def test_a_seed_fixes_the_start():
    options = ["enc_layers=1", "dec_layers=1", "backbone=resnet10", "num_queries=10", "num_select=10"]
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(build_model(load_config(CONFIG, options))[0].transformer.tgt_embed.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
