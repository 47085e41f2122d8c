"""Names, shapes and ties of the official networks, so that public checkpoints load strictly."""

import pytest
import torch

from models import build_model
from tests.helpers.golden.model import ROOT
from tests.helpers.golden.params import golden_params
from util.config import load_config

NETWORKS = {
    "DINO_4scale_4": ("DINO_4scale", ["num_classes=4", "dn_labelbook_size=4"]),
    "DINO_4scale_91": ("DINO_4scale", []),
    "DINO_5scale_91": ("DINO_5scale", []),
    "DINO_4scale_swin_T_224_1k_91": ("DINO_4scale_swin", ["backbone=swin_T_224_1k"]),
    "DINO_4scale_swin_L_384_22k_91": ("DINO_4scale_swin", []),
    "DINO_4scale_convnext_xlarge_22k_91": ("DINO_4scale_convnext", []),
}
# Norms of stages that are not returned never get a gradient; here they are frozen, so that data-parallel steps work.
UNUSED_NORMS = {"DINO_4scale_convnext_xlarge_22k_91": {"backbone.0.norm0.weight", "backbone.0.norm0.bias"}}


def build(config, options):
    with torch.device("meta"):
        return build_model(load_config(ROOT / "config" / "DINO" / f"{config}.py", options))[0]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return build(*NETWORKS[request.param]), golden_params()[request.param], UNUSED_NORMS.get(request.param, set())


def test_every_official_network_is_compared():
    assert NETWORKS.keys() == golden_params().keys()


def test_names_shapes_and_their_order_are_the_official_ones(network):
    model, gold, _ = network
    assert [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()] == gold["state_dict"]
    assert len(model.state_dict()) == gold["num_state_dict_keys"]


def test_parameters_come_in_the_official_order(network):
    model, gold, _ = network
    assert [name for name, _ in model.named_parameters()] == gold["named_parameters_order"]
    assert len(list(model.parameters())) == gold["num_unique_parameter_tensors"]


def test_the_same_names_share_a_tensor(network):
    model, gold, _ = network
    groups = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    assert sorted(sorted(g) for g in groups.values() if len(g) > 1) == sorted(sorted(g) for g in gold["tied"])


def test_the_same_parameters_are_frozen(network):
    model, gold, unused = network
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(gold["frozen_parameters"]) | unused
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    extra = sum(p.numel() for name, p in model.named_parameters() if name in unused)
    assert trainable == gold["num_parameters_trainable"] - extra
    assert sum(p.numel() for p in model.parameters()) == gold["num_parameters"]


def test_the_same_buffers_are_saved(network):
    model, gold, _ = network
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    saved = {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}
    assert set(saved) == set(gold["buffers"])
    assert {n for n, t in saved.items() if not t.is_floating_point()} == set(gold["integer_buffers"])
    assert sum(t.numel() for t in saved.values()) == gold["num_buffer_elements"]


@pytest.mark.parametrize("hidden_dim", [64, 128])
def test_other_widths_work(hidden_dim):
    options = [f"hidden_dim={hidden_dim}", "backbone=resnet10", "num_queries=20", "num_select=20", "dn_number=5"]
    config = load_config(
        ROOT / "config" / "DINO" / "DINO_4scale.py", [*options, "dim_feedforward=64", "enc_layers=1", "dec_layers=2"]
    )
    model, criterion, _ = build_model(config)
    truth = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    outputs = model.train()(torch.randn(1, 3, 96, 96), torch.zeros(1, 96, 96, dtype=torch.bool), truth)
    assert outputs.last.boxes.shape == (1, 20, 4)
    criterion(outputs, truth, 1.0)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_restricting_to_categories_leaves_no_trace_in_a_checkpoint():
    config = load_config(ROOT / "config" / "DINO" / "DINO_4scale_tbx11k.py")
    with torch.device("meta"):
        keys = [list(build_model(config, ids)[0].state_dict()) for ids in (None, (1, 2, 3))]
    assert keys[0] == keys[1]
