"""Backbones: official names, exact numerics against references written from the papers, frozen parts."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.swin_transformer import SwinTransformer as TimmSwinTransformer
from torch import nn

from models.backbones import convnext, swin
from models.backbones.build import BACKBONES, build_backbone, check_backbone
from models.backbones.convnext import ConvNeXt
from models.backbones.resnet import FrozenBatchNorm2d
from models.backbones.swin import SwinTransformer
from tests.helpers.golden.fill_rule import fill, golden_images, image
from tests.helpers.golden.params import BACKBONE, golden_backbone, golden_params
from tests.helpers.references.backbones import reference_convnext, reference_swin

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
STAGES = (1, 2, 3)
OFFICIAL = [
    ("DINO_4scale_91", "resnet50", 2, (1, 2, 3)),
    ("DINO_5scale_91", "resnet50", 2, (0, 1, 2, 3)),
    ("DINO_4scale_swin_T_224_1k_91", "swin_T_224_1k", 0, (1, 2, 3)),
    ("DINO_4scale_swin_L_384_22k_91", "swin_L_384_22k", 0, (1, 2, 3)),
    ("DINO_4scale_convnext_xlarge_22k_91", "convnext_xlarge_22k", 0, (1, 2, 3)),
]
TINY_SWIN = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "drop_path": 0.2}
TINY_CONVNEXT = {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32)}


def resnet(name="resnet10", norm="frozen_bn", freeze_at=0, stages=STAGES):
    return build_backbone(name, norm=norm, freeze_at=freeze_at, return_interm_indices=stages)


def tiny_swin(window=3, stages=STAGES, **changes):
    return SwinTransformer(**TINY_SWIN | changes, window=window, return_interm_indices=stages)


def tiny_convnext(stages=STAGES):
    return ConvNeXt(**TINY_CONVNEXT, return_interm_indices=stages)


TINY = {
    "resnet": resnet,
    "resnet with group norm": lambda: resnet(norm="group_norm"),
    "swin": tiny_swin,
    "convnext": tiny_convnext,
}


def ready(model):
    """Filled, double, evaluating."""
    return fill(model.double(), BACKBONE).eval()


def images_of(height, width, batch=1):
    return torch.stack([image(i, height, width) for i in range(batch)]).double()


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(("network", "name", "freeze_at", "stages"), OFFICIAL)
def test_names_shapes_and_order_are_those_of_the_official_network(network, name, freeze_at, stages):
    with torch.device("meta"):
        backbone = build_backbone(name, norm="frozen_bn", freeze_at=freeze_at, return_interm_indices=stages)
    expected = golden_params()[network]
    assert [(key, tuple(t.shape)) for key, t in backbone.state_dict().items()] == golden_backbone(network)
    parameters = [BACKBONE + key for key, _ in backbone.named_parameters()]
    assert parameters == [key for key in expected["named_parameters_order"] if key.startswith(BACKBONE)]
    integers = [BACKBONE + key for key, t in backbone.state_dict().items() if not t.is_floating_point()]
    assert integers == expected["integer_buffers"]
    frozen = [BACKBONE + key for key, p in backbone.named_parameters() if not p.requires_grad]
    unused_norms = [BACKBONE + key for key in ("norm0.weight", "norm0.bias")] if name.startswith("convnext") else []
    assert frozen == expected["frozen_parameters"] + unused_norms


@pytest.mark.parametrize(
    "name", [*(n for n in BACKBONES if n.startswith("resnet")), "swin_T_224_1k", "convnext_tiny_22k"]
)
def test_every_backbone_says_its_channels_and_sizes(name):
    with torch.device("meta"):
        backbone = build_backbone(name, norm="frozen_bn", freeze_at=0, return_interm_indices=(0, 1, 2, 3))
        maps = backbone(torch.zeros(2, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == backbone.num_channels
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("stages", [(3,), (1, 2, 3)])
@pytest.mark.parametrize("build", [resnet, tiny_swin, tiny_convnext])
def test_returning_fewer_stages_does_not_change_them(build, stages):
    every, some = ready(build(stages=(0, 1, 2, 3))), ready(build(stages=stages))
    images = images_of(64, 64)
    for expected, got in zip(every(images)[-len(stages) :], some(images), strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet51"}, r"must be one of \['resnet10', .* got 'resnet51'; did you mean 'resnet"),
        ({"name": "x" * 10_000}, f"got '{'x' * 100}'$"),
        ({"return_interm_indices": (0, 2)}, "consecutive and end with 3"),
        ({"return_interm_indices": ()}, "consecutive and end with 3"),
        ({"name": "swin_T_224_1k", "freeze_at": 1}, "freeze_at 0"),
        ({"name": "convnext_tiny_22k", "norm": "group_norm"}, "are for ResNets; convnext_tiny_22k needs .*'frozen_bn'"),
    ],
)
def test_settings_that_a_network_cannot_have_are_refused(changes, message):
    settings = {"name": "resnet50", "norm": "frozen_bn", "freeze_at": 0, "return_interm_indices": STAGES} | changes
    with pytest.raises(ValueError, match=message):
        build_backbone(settings.pop("name"), **settings)


def test_settings_that_a_network_can_have_pass():
    check_backbone("resnet50", norm="group_norm", freeze_at=2)
    check_backbone("swin_T_224_1k", norm="frozen_bn", freeze_at=0)


# ------------------------------------------------------------------ ResNet


def test_frozen_batch_norm_gives_the_golden_values():
    norm = FrozenBatchNorm2d(3)
    rows = {
        "weight": [1.0, 2.0, 0.5],
        "bias": [0.1, -0.2, 0.3],
        "running_mean": [0.5, -0.5, 0.0],
        "running_var": [1.0, 4.0, 0.25],
    }
    state = {key: torch.tensor(row) for key, row in rows.items()}
    norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(9)}, strict=True)
    x = torch.tensor([-0.22067559, 0.74094987, 0.41895342, 0.49081218, -0.2912197, 0.6117313])
    y = torch.tensor([-0.620672, 0.34094867, 0.7189523, 0.790811, 0.00878614, 0.911719])
    torch.testing.assert_close(norm(x.view(1, 3, 1, 2)), y.view(1, 3, 1, 2), atol=1e-6, rtol=0)
    assert list(norm.state_dict()) == list(rows)
    assert not list(norm.parameters())


def test_frozen_batch_norm_keeps_the_type_of_its_input():
    norm = FrozenBatchNorm2d(3)
    norm.running_mean += 0.3
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_equals_torchvisions_own_evaluation(name):
    theirs = fill(getattr(torchvision.models, name)(weights=None).double(), "backbone.0.body.").eval()
    ours = resnet(name).double().eval()
    state = {f"body.{key}": t for key, t in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    images = images_of(65, 94)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    expected = [x := layer(x) for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)][1:]
    for got, wanted in zip(ours(images), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-11, rtol=1e-11)


@pytest.mark.data
def test_resnet50_gives_the_golden_feature_maps():
    if not GOLDEN.is_dir():
        pytest.skip("no golden figures beside the repository")
    golden = np.load(GOLDEN / "forward_eval_4scale.npz")
    backbone = fill(resnet("resnet50", freeze_at=2), BACKBONE).eval()
    with torch.no_grad():
        maps = backbone(golden_images()[0])
    for level, got in enumerate(maps):
        assert tuple(got.shape) == tuple(golden[f"q300/backbone{level}.shape"])
        entries = got.flatten()[torch.arange(64) * got.numel() // 64]
        np.testing.assert_allclose(entries, golden[f"q300/backbone{level}.entries"], atol=2e-5)


@pytest.mark.parametrize("norm", ["frozen_bn", "group_norm"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_freeze_at_stops_the_leading_parts_and_nothing_else(norm, freeze_at):
    backbone = resnet(norm=norm, freeze_at=freeze_at)
    part = {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (part[key.split(".")[1]] >= freeze_at), key


def test_no_graph_is_built_for_the_frozen_part():
    backbone = resnet(freeze_at=2, stages=(0, 1, 2, 3))
    first, second, *_ = backbone(images_of(64, 64).float())
    assert not first.requires_grad
    assert second.requires_grad


def test_group_norm_blocks_start_as_the_identity_and_ignore_their_neighbours_in_the_batch():
    backbone = resnet(norm="group_norm")
    last_norms = [block.bn2 for stage in (1, 2, 3, 4) for block in getattr(backbone.body, f"layer{stage}")]
    assert all(isinstance(norm, nn.GroupNorm) for norm in last_norms)
    assert [norm.num_groups for norm in last_norms] == [16, 32, 32, 32]  # of 64, 128, 256 and 512 channels
    assert all(not norm.weight.any() for norm in last_norms)
    pair = images_of(64, 64, batch=2)
    backbone = ready(backbone).train()
    for both, alone in zip(backbone(pair), backbone(pair[1:]), strict=True):
        torch.testing.assert_close(both[1:], alone, atol=1e-10, rtol=1e-10)


# ------------------------------------------------------------------ Swin


def check_swin(model, images, **shape):
    with torch.no_grad():
        maps = model(images)
        expected = reference_swin(model.state_dict(), images, stages=model.return_interm_indices, **shape)
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(65, 94), (256, 320)])
def test_swin_t_equals_a_plain_reference(height, width):
    model = ready(build_backbone("swin_T_224_1k", norm="frozen_bn", freeze_at=0, return_interm_indices=STAGES))
    check_swin(model, images_of(height, width), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)


@pytest.mark.parametrize("window", [2, 5, 12])
def test_any_image_size_works_on_the_same_swin(window):
    model = ready(tiny_swin(window, stages=(0, 1, 2, 3)))
    for height, width in [(4 * window, 8 * window), (3, 5), (97, 130), (64, 33)]:
        shape = {"depths": TINY_SWIN["depths"], "heads": TINY_SWIN["num_heads"], "window": window}
        check_swin(model, images_of(height, width, batch=2), **shape)


def test_swin_equals_timms_where_windows_divide_every_map():
    changes = {"embed_dim": 16, "num_heads": (1, 2, 4, 8)}
    ours = ready(tiny_swin(2, stages=(0, 1, 2, 3), **changes))
    theirs = TimmSwinTransformer(
        img_size=(128, 192), window_size=2, depths=TINY_SWIN["depths"], num_classes=0, drop_path_rate=0.0, **changes
    )
    theirs = fill(theirs.double()).eval()
    renamed = swin.official_names({key: t for key, t in theirs.state_dict().items() if not key.startswith("norm.")})
    ours.load_state_dict(renamed, strict=False)
    left = set(ours.state_dict()) - set(renamed)
    assert all(key.endswith("relative_position_index") or key.startswith("norm") for key in left)
    images = images_of(128, 192)
    x = theirs.patch_embed(images)
    for stage, got in enumerate(ours(images)):
        x = theirs.layers[stage](x)
        expected = getattr(ours, f"norm{stage}")(x).movedim(3, 1)
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_stochastic_depth_rises_linearly_and_acts_only_in_training():
    model = build_backbone("swin_T_224_1k", norm="frozen_bn", freeze_at=0, return_interm_indices=STAGES)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx(np.linspace(0, 0.2, 12))
    model, images = ready(tiny_swin(drop_path=0.9)), images_of(64, 64)
    always = ready(tiny_swin(drop_path=0.0)).train()
    assert torch.equal(model(images)[-1], always(images)[-1])
    assert model.train() is model
    torch.manual_seed(0)
    assert not torch.allclose(model(images)[-1], always(images)[-1])


# ------------------------------------------------------------------ ConvNeXt


@pytest.mark.parametrize(("height", "width"), [(32, 32), (65, 94), (96, 160)])
def test_convnext_equals_a_plain_reference(height, width):
    model, images = ready(tiny_convnext(stages=(0, 1, 2, 3))), images_of(height, width, batch=2)
    with torch.no_grad():
        maps = model(images)
        expected = reference_convnext(model.state_dict(), images, depths=TINY_CONVNEXT["depths"], stages=(0, 1, 2, 3))
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)


def test_convnext_equals_timms():
    theirs = TimmConvNeXt(depths=TINY_CONVNEXT["depths"], dims=TINY_CONVNEXT["widths"], num_classes=0)
    theirs = fill(theirs.double()).eval()
    ours = ready(tiny_convnext(stages=(0, 1, 2, 3)))
    state = {key: t for key, t in theirs.state_dict().items() if not key.startswith(("head.", "norm_pre."))}
    result = ours.load_state_dict(convnext.official_names(state), strict=False)
    assert not result.unexpected_keys
    assert {key.split(".")[0] for key in result.missing_keys} == {"norm0", "norm1", "norm2", "norm3"}
    images = images_of(65, 94)
    x = theirs.stem(images)
    for stage, got in enumerate(ours(images)):
        x = theirs.stages[stage](x)
        torch.testing.assert_close(got, getattr(ours, f"norm{stage}")(x), atol=1e-10, rtol=0)


def test_convnext_starts_near_the_identity_and_refuses_images_without_a_last_stage():
    model = tiny_convnext()
    assert all((p == 1e-6).all() for key, p in model.named_parameters() if key.endswith("gamma"))
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 31 x 64"):
        model(torch.zeros(1, 3, 31, 64))


def test_convnext_norms_without_a_stage_are_frozen():
    frozen = [key for key, p in tiny_convnext(stages=(2, 3)).named_parameters() if not p.requires_grad]
    assert frozen == ["norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"]


# ------------------------------------------------------------------ promises of every backbone


@pytest.mark.parametrize("kind", TINY)
def test_the_gradient_reaches_every_trainable_parameter(kind):
    model = ready(TINY[kind]()).train()
    torch.manual_seed(0)
    sum((m * torch.randn_like(m)).sum() for m in model(images_of(64, 96, batch=2))).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("kind", TINY)
def test_the_state_dict_is_the_live_network(kind):
    model, images = ready(TINY[kind]()), images_of(64, 64)
    before = model(images)[-1]
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9)
    assert not torch.allclose(before, model(images)[-1])


@pytest.mark.parametrize("kind", TINY)
def test_copies_averages_and_files_carry_the_whole_network(kind):
    model, images = ready(TINY[kind]()), images_of(64, 64)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for mine, theirs in zip(twin.state_dict().values(), model.state_dict().values(), strict=True):
            assert mine.data_ptr() != theirs.data_ptr()
            if mine.is_floating_point():
                mine.lerp_(theirs + 0.1, 0.5)
    assert not torch.equal(twin(images)[-1], model(images)[-1])
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(twin(images)[-1], model(images)[-1])


@pytest.mark.parametrize("kind", TINY)
def test_images_of_a_batch_do_not_see_each_other(kind):
    model, pair = ready(TINY[kind]()), images_of(65, 70, batch=2)
    for both, alone in zip(model(pair), model(pair[:1]), strict=True):
        torch.testing.assert_close(both[:1], alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", TINY)
def test_half_precision_follows_full_precision(kind):
    model, images = ready(TINY[kind]()).float(), images_of(64, 96).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images)
    for rough, exact in zip(half, model(images), strict=True):
        assert (rough.float() - exact).abs().mean() < 0.02 * exact.abs().mean()
