"""Weights of a backbone: every naming loads whole, everything that does not fit is refused by name."""

import copy
import re
from functools import partial
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.swin_transformer import SwinTransformer as TimmSwinTransformer

from models.backbones import weights as backbone_weights
from models.backbones.build import BACKBONES, build_backbone
from models.backbones.convnext import ConvNeXt
from models.backbones.swin import SwinTransformer
from models.backbones.weights import (
    LoadedWeights,
    WeightsError,
    load_backbone_weights,
    published_url,
    read_file,
    tensors_of,
)
from tests.helpers.golden.fill_rule import fill

STAGES = (1, 2, 3)
SWIN = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2)}
CONVNEXT = {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32)}


def resnet(name="resnet10", norm="frozen_bn"):
    return build_backbone(name, norm=norm, freeze_at=0, return_interm_indices=STAGES)


def torchvision_resnet():
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])


def swin(window=2, stages=STAGES):
    return SwinTransformer(**SWIN, window=window, drop_path=0.0, return_interm_indices=stages)


def convnext():
    return ConvNeXt(**CONVNEXT, return_interm_indices=STAGES)


def official_swin_file(model):
    """As the authors publish it: one norm, a head, the masks and indices of a fixed image size."""
    state = {key: t.clone() for key, t in model.state_dict().items() if not re.match(r"norm\d", key)}
    extra = {"norm.weight": torch.ones(64), "head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}
    return {"model": state | extra | {"layers.1.blocks.1.attn_mask": torch.zeros(4, 4, 4)}}


def official_convnext_file(model):
    state = {key: t.clone() for key, t in model.state_dict().items() if not re.match(r"norm\d", key)}
    return {
        "model": state | {"norm.weight": torch.ones(32), "norm.bias": torch.ones(32), "head.weight": torch.ones(5, 32)}
    }


def saved(content, folder, name="weights.pth"):
    torch.save(content, folder / name)
    return str(folder / name)


def same(first, second, but=()):
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for (key, mine), theirs in pairs if not key.startswith(but))


# ------------------------------------------------------------------ what loads


def test_none_changes_nothing():
    backbone = resnet("resnet10")
    before = copy.deepcopy(backbone)
    report = load_backbone_weights(backbone, "resnet10", "none")
    assert report.loaded == 0
    assert same(before, backbone)


def test_a_torchvision_file_fills_the_whole_resnet_and_leaves_the_classifier(tmp_path):
    theirs = fill(torchvision_resnet())
    backbone = resnet()
    report = load_backbone_weights(backbone, "resnet10", saved(theirs.state_dict(), tmp_path))
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key.removeprefix("body.")]), key
    assert report.loaded == len(backbone.state_dict())
    assert report.missing == ()
    assert {"fc.weight", "fc.bias", "bn1.num_batches_tracked"} <= set(report.unexpected)


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state}, lambda state: {"state_dict": state}]
)
@pytest.mark.parametrize(
    ("build", "name"), [(resnet, "resnet10"), (swin, "swin_T_224_1k"), (convnext, "convnext_tiny_22k")]
)
def test_a_backbones_own_state_dict_comes_back(tmp_path, build, name, wrap):
    source, target = fill(build()), build()
    report = load_backbone_weights(target, name, saved(wrap(source.state_dict()), tmp_path))
    assert same(source, target)
    assert report.unexpected == () or all(key.endswith("relative_position_index") for key in report.unexpected)


@pytest.mark.parametrize(
    ("build", "name", "content"),
    [(swin, "swin_T_224_1k", official_swin_file), (convnext, "convnext_tiny_22k", official_convnext_file)],
)
def test_an_authors_file_fills_all_but_the_norms_of_detection(tmp_path, build, name, content):
    source, target = fill(build()), build()
    report = load_backbone_weights(target, name, saved(content(source), tmp_path))
    assert same(source, target, but=tuple(f"norm{stage}." for stage in range(4)))
    assert all(re.match(r"norm\d\.", key) or key.endswith("_index") for key in report.missing)
    assert {"norm.weight", "head.weight"} <= set(report.unexpected)


def test_timms_swin_file_fills_all_but_the_norms_of_detection(tmp_path):
    theirs = fill(TimmSwinTransformer(img_size=64, window_size=2, num_classes=3, **SWIN))
    backbone = swin()
    report = load_backbone_weights(backbone, "swin_T_224_1k", saved(theirs.state_dict(), tmp_path))
    ours, timms = backbone.state_dict(), theirs.state_dict()
    assert torch.equal(ours["layers.0.downsample.reduction.weight"], timms["layers.1.downsample.reduction.weight"])
    assert torch.equal(ours["layers.3.blocks.0.mlp.fc2.bias"], timms["layers.3.blocks.0.mlp.fc2.bias"])
    assert all(re.match(r"norm\d\.", key) or key.endswith("_index") for key in report.missing)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timms_convnext_file_fills_all_but_the_norms_of_detection(tmp_path, suffix):
    theirs = fill(TimmConvNeXt(depths=CONVNEXT["depths"], dims=CONVNEXT["widths"], num_classes=3))
    path = str(tmp_path / f"weights.{suffix}")
    (save_file if suffix == "safetensors" else torch.save)(theirs.state_dict(), path)
    backbone = convnext()
    report = load_backbone_weights(backbone, "convnext_tiny_22k", path)
    ours, timms = backbone.state_dict(), theirs.state_dict()
    for own, name in {
        "downsample_layers.0.1.bias": "stem.1.bias",
        "downsample_layers.2.1.weight": "stages.2.downsample.1.weight",
        "stages.2.1.pwconv2.weight": "stages.2.blocks.1.mlp.fc2.weight",
        "stages.0.0.gamma": "stages.0.blocks.0.gamma",
        "stages.3.0.dwconv.weight": "stages.3.blocks.0.conv_dw.weight",
    }.items():
        assert torch.equal(ours[own], timms[name])
    assert all(re.match(r"norm\d\.", key) for key in report.missing)


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("resnet")])
def test_the_published_timm_network_has_exactly_our_weights(monkeypatch, name):
    """Names and shapes of the real networks, both ways, without their numbers."""
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # older timm reads its values
    with torch.device("meta"):
        ours = build_backbone(name, norm="frozen_bn", freeze_at=0, return_interm_indices=STAGES).state_dict()
        theirs = timm.create_model(BACKBONES[name].weights, pretrained=False).state_dict()
    theirs = {key: t for key, t in theirs.items() if not re.match(r"head\.|norm\.", key)}
    renamed = BACKBONES[name].official_names(theirs)
    expected = {key: t.shape for key, t in ours.items() if not re.search(r"^norm\d|_index$", key)}
    assert {key: t.shape for key, t in renamed.items() if not key.endswith("_index")} == expected


def test_the_indices_of_a_file_never_replace_the_computed_ones(tmp_path):
    source, target = fill(swin()), swin()
    state = source.state_dict()
    spoilt = {key: torch.zeros_like(t) if key.endswith("_index") else t for key, t in state.items()}
    load_backbone_weights(target, "swin_T_224_1k", saved(spoilt, tmp_path))
    assert same(source, target)


def test_the_norms_of_other_stages_do_not_matter(tmp_path):
    source, target = fill(swin(stages=(0, 1, 2, 3))), swin(stages=(2, 3))
    report = load_backbone_weights(target, "swin_T_224_1k", saved(source.state_dict(), tmp_path))
    assert torch.equal(source.norm3.weight, target.norm3.weight)
    assert {"norm0.weight", "norm1.bias"} <= set(report.unexpected)


def test_the_report_reads_as_one_line():
    report = LoadedWeights("r50.pth", 265, (), tuple(f"k{i}" for i in range(6)))
    assert str(report) == (
        "backbone weights r50.pth: 265 tensors loaded, 0 keep their initialisation, "
        "6 of the file not needed (k0, k1, k2, k3, ...)"
    )


# ------------------------------------------------------------------ what is refused


def without(key):
    return lambda state: {k: t for k, t in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer4.0.conv1.weight"), r"lacks 1 tensors \(body.layer4.0.conv1.weight\)"),
        (
            lambda state: state | {"layer5.0.conv1.weight": torch.ones(1)},
            r"has besides 1 tensors \(body.layer5.0.conv1",
        ),
        (
            lambda state: state | {"conv1.weight": torch.ones(64, 1, 7, 7)},
            r"conv1.weight \[64, 1, 7, 7\] \(not \[64, 3",
        ),
        (lambda state: {f"backbone.0.body.{k}": t for k, t in state.items()}, "whole detector.*--pretrain_model_path"),
        (lambda _state: {"model": 3}, "holds no state dict"),
        (lambda _state: {}, "holds no state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name_and_nothing_is_copied(tmp_path, change, message):
    backbone = resnet()
    before = copy.deepcopy(backbone)
    path = saved(change(fill(torchvision_resnet()).state_dict()), tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone_weights(backbone, "resnet10", path)
    assert path in str(caught.value)
    assert same(before, backbone)


def test_a_deeper_resnet_is_not_taken_for_a_shallower_one(tmp_path):
    path = saved(torchvision.models.resnet18(weights=None).state_dict(), tmp_path)
    with pytest.raises(WeightsError, match="has besides"):
        load_backbone_weights(resnet("resnet10"), "resnet10", path)


def test_batch_norm_statistics_are_not_dropped_in_silence(tmp_path):
    path = saved(torchvision_resnet().state_dict(), tmp_path)
    with pytest.raises(WeightsError, match=r"running_mean.*backbone_norm is 'frozen_bn'"):
        load_backbone_weights(resnet(norm="group_norm"), "resnet10", path)


def test_another_window_size_is_refused(tmp_path):
    path = saved(official_swin_file(swin(window=3)), tmp_path)
    with pytest.raises(WeightsError, match=r"relative_position_bias_table \[25, 1\] \(not \[9, 1\]\).*window size"):
        load_backbone_weights(swin(window=2), "swin_T_224_1k", path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@given(content=st.binary(max_size=60) | st.sampled_from([b"<html>404</html>", b"torn", b"PK\x03\x04 torn"]))
def test_a_torn_file_is_named_whatever_its_bytes(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("torn") / f"torn.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"torn\.\w+ (cannot be read as a file of tensors|holds no state dict)"):
        tensors_of(path, read_file(path))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = saved({"model": fill(resnet()).state_dict(), "args": torch.nn.Linear}, tmp_path)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_backbone_weights(resnet(), "resnet10", path)


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"absent.pth is no file; give 'none', 'imagenet' or the path"):
        load_backbone_weights(resnet(), "resnet10", str(tmp_path / "absent.pth"))


# ------------------------------------------------------------------ published weights


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache; the folder where a placed file is found."""

    def refuse(*_args, **_kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["resnet50", "swin_L_384_22k", "convnext_tiny_22k"])
def test_without_network_the_error_says_what_to_fetch_and_where_to_place_it(offline, name):
    with torch.device("meta"):
        backbone = build_backbone(name, norm="frozen_bn", freeze_at=0, return_interm_indices=STAGES)
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(backbone, name, "imagenet")
    url = published_url(name)
    assert url.startswith("https://")
    for part in (url, str(offline / url.rsplit("/", 1)[-1]), "--options backbone_weights=PATH", "no network"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", [name for name in BACKBONES if BACKBONES[name].weights])
def test_every_published_file_has_an_address_and_a_name(name):
    assert re.fullmatch(r"https://[^ ]+/[\w.-]+\.pth", published_url(name))


def test_resnet50_starts_from_the_weights_of_the_paper():
    assert published_url("resnet50").endswith("/resnet50-0676ba61.pth")


def test_a_placed_file_is_used_without_network(offline):
    theirs = fill(torchvision.models.resnet18(weights=None))
    placed = saved(theirs.state_dict(), offline, published_url("resnet18").rsplit("/", 1)[-1])
    backbone = resnet("resnet18")
    report = load_backbone_weights(backbone, "resnet18", "imagenet")
    assert report.source == placed
    assert torch.equal(backbone.body.conv1.weight, theirs.conv1.weight)


def test_a_download_fills_the_backbone(monkeypatch, offline):
    theirs = fill(torchvision.models.resnet18(weights=None))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda _url, path, *_a, **_k: torch.save(theirs.state_dict(), path)
    )
    backbone = resnet("resnet18")
    report = load_backbone_weights(backbone, "resnet18", "imagenet")
    assert report.loaded == len(backbone.state_dict())
    assert (offline / published_url("resnet18").rsplit("/", 1)[-1]).exists()


def test_a_torn_file_in_the_cache_is_named(offline):
    (offline / published_url("resnet18").rsplit("/", 1)[-1]).write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"cannot be read .* delete the file"):
        load_backbone_weights(resnet("resnet18"), "resnet18", "imagenet")


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [("resnet10", "frozen_bn", "resnet10 has no published"), ("resnet18", "group_norm", "belong to batch norm")],
)
def test_wishes_without_published_weights_are_refused_before_any_download(monkeypatch, name, norm, message):
    monkeypatch.setattr(backbone_weights, "published_url", lambda _name: pytest.fail("asked for an address"))
    with pytest.raises(WeightsError, match=message):
        load_backbone_weights(resnet(name, norm), name, "imagenet")


def test_all_backbones_but_the_small_ones_have_published_weights():
    assert {name for name in BACKBONES if not BACKBONES[name].weights} == {"resnet10", "resnet10_narrow"}
