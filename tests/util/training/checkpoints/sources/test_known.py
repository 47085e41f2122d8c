"""Checkpoints of other programs: their names become the official ones, and the network computes the same."""

from pathlib import Path

import pytest
import torch

from tests.helpers.golden.params import golden_params
from tests.helpers.networks.foreign_names import as_detrex, as_hugging_face, as_mmdetection
from tests.helpers.networks.tiny_dino import SIDE, build
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.sources.known import SOURCES, arrange, source_of
from util.training.checkpoints.sources.source import COCO_IDS, NEVER
from util.training.checkpoints.weights import load_what_fits, require_exact, weights_of

FILE = Path("other.pth")
PROGRAMS = {"detrex": as_detrex, "MMDetection": as_mmdetection, "Hugging Face (Deformable DETR)": as_hugging_face}
ABSENT_IN_DEFORMABLE_DETR = ("tgt_embed", "label_enc", "ref_point_head", "decoder.norm")
# names and shapes of the published checkpoints of DINO-4scale with a ResNet-50, and the official name of each
PUBLISHED = {
    "detrex": {
        "backbone.stem.conv1.weight": ([64, 3, 7, 7], "backbone.0.body.conv1.weight"),
        "backbone.stem.conv1.norm.running_var": ([64], "backbone.0.body.bn1.running_var"),
        "backbone.res2.0.shortcut.weight": ([256, 64, 1, 1], "backbone.0.body.layer1.0.downsample.0.weight"),
        "backbone.res2.0.shortcut.norm.bias": ([256], "backbone.0.body.layer1.0.downsample.1.bias"),
        "backbone.res5.2.conv3.weight": ([2048, 512, 1, 1], "backbone.0.body.layer4.2.conv3.weight"),
        "backbone.res5.2.conv3.norm.running_mean": ([2048], "backbone.0.body.layer4.2.bn3.running_mean"),
        "neck.convs.0.conv.weight": ([256, 512, 1, 1], "input_proj.0.0.weight"),
        "neck.convs.2.norm.bias": ([256], "input_proj.2.1.bias"),
        "transformer.level_embeds": ([4, 256], "transformer.level_embed"),
        "transformer.encoder.layers.5.attentions.0.sampling_offsets.weight": (
            [256, 256],
            "transformer.encoder.layers.5.self_attn.sampling_offsets.weight",
        ),
        "transformer.encoder.layers.0.ffns.0.layers.0.0.weight": (
            [2048, 256],
            "transformer.encoder.layers.0.linear1.weight",
        ),
        "transformer.decoder.layers.0.attentions.0.attn.in_proj_weight": (
            [768, 256],
            "transformer.decoder.layers.0.self_attn.in_proj_weight",
        ),
        "transformer.decoder.layers.0.attentions.1.attention_weights.bias": (
            [128],
            "transformer.decoder.layers.0.cross_attn.attention_weights.bias",
        ),
        "transformer.decoder.layers.0.norms.0.weight": ([256], "transformer.decoder.layers.0.norm2.weight"),
        "transformer.decoder.layers.0.norms.1.weight": ([256], "transformer.decoder.layers.0.norm1.weight"),
        "transformer.decoder.ref_point_head.layers.0.weight": (
            [256, 512],
            "transformer.decoder.ref_point_head.layers.0.weight",
        ),
        "transformer.tgt_embed.weight": ([900, 256], "transformer.tgt_embed.weight"),
        "bbox_embed.6.layers.2.weight": ([4, 256], "bbox_embed.6.layers.2.weight"),
        "class_embed.5.weight": ([80, 256], "class_embed.5.weight"),
        "label_enc.weight": ([80, 256], "label_enc.weight"),
    },
    "MMDetection": {
        "backbone.conv1.weight": ([64, 3, 7, 7], "backbone.0.body.conv1.weight"),
        "backbone.layer1.0.downsample.1.running_mean": ([256], "backbone.0.body.layer1.0.downsample.1.running_mean"),
        "backbone.layer4.2.bn3.weight": ([2048], "backbone.0.body.layer4.2.bn3.weight"),
        "neck.convs.1.conv.weight": ([256, 1024, 1, 1], "input_proj.1.0.weight"),
        "neck.convs.1.gn.weight": ([256], "input_proj.1.1.weight"),
        "level_embed": ([4, 256], "transformer.level_embed"),
        "encoder.layers.0.self_attn.value_proj.weight": (
            [256, 256],
            "transformer.encoder.layers.0.self_attn.value_proj.weight",
        ),
        "encoder.layers.0.ffn.layers.1.weight": ([256, 2048], "transformer.encoder.layers.0.linear2.weight"),
        "decoder.layers.3.self_attn.attn.out_proj.weight": (
            [256, 256],
            "transformer.decoder.layers.3.self_attn.out_proj.weight",
        ),
        "decoder.layers.3.cross_attn.sampling_offsets.bias": (
            [256],
            "transformer.decoder.layers.3.cross_attn.sampling_offsets.bias",
        ),
        "decoder.layers.3.norms.2.bias": ([256], "transformer.decoder.layers.3.norm3.bias"),
        "decoder.norm.weight": ([256], "transformer.decoder.norm.weight"),
        "query_embedding.weight": ([900, 256], "transformer.tgt_embed.weight"),
        "memory_trans_fc.weight": ([256, 256], "transformer.enc_output.weight"),
        "memory_trans_norm.bias": ([256], "transformer.enc_output_norm.bias"),
        "bbox_head.cls_branches.0.weight": ([80, 256], "class_embed.0.weight"),
        "bbox_head.reg_branches.6.4.bias": ([4], "bbox_embed.6.layers.2.bias"),
        "dn_query_generator.label_embedding.weight": ([80, 256], "label_enc.weight"),
    },
    "Hugging Face (Deformable DETR)": {  # without `model.`, which is taken off before
        "backbone.conv_encoder.model.layer1.0.conv1.weight": (
            [64, 64, 1, 1],
            "backbone.0.body.layer1.0.conv1.weight",
        ),
        "input_proj.3.0.weight": ([256, 2048, 3, 3], "input_proj.3.0.weight"),
        "level_embed": ([4, 256], "transformer.level_embed"),
        "encoder.layers.0.final_layer_norm.weight": ([256], "transformer.encoder.layers.0.norm2.weight"),
        "encoder.layers.0.self_attn_layer_norm.weight": ([256], "transformer.encoder.layers.0.norm1.weight"),
        "decoder.layers.0.encoder_attn.value_proj.weight": (
            [256, 256],
            "transformer.decoder.layers.0.cross_attn.value_proj.weight",
        ),
        "decoder.layers.0.encoder_attn_layer_norm.weight": ([256], "transformer.decoder.layers.0.norm1.weight"),
        "decoder.layers.0.self_attn_layer_norm.weight": ([256], "transformer.decoder.layers.0.norm2.weight"),
        "decoder.layers.0.self_attn.out_proj.bias": ([256], "transformer.decoder.layers.0.self_attn.out_proj.bias"),
        "enc_output_norm.weight": ([256], "transformer.enc_output_norm.weight"),
        "query_position_embeddings.weight": ([300, 512], None),
        "pos_trans.weight": ([512, 512], None),
    },
}


def outputs(model):
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = model.eval()(image, torch.zeros(1, SIDE, SIDE, dtype=torch.bool))
    return [*(t for layer in found.layers for t in (layer.logits, layer.boxes)), found.proposals.logits]


@pytest.fixture
def trained():
    return build("num_feature_levels=4")[0]


@pytest.fixture
def fresh():
    torch.manual_seed(9)
    model = build("num_feature_levels=4")[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_names_of_a_program_are_recognised(program, trained):
    names = PROGRAMS[program](trained.state_dict())
    assert source_of({k.removeprefix("model."): v for k, v in names.items()}).name == program
    assert source_of(trained.state_dict()) is None


@pytest.mark.parametrize("program", ["detrex", "MMDetection"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_network_loaded_from_another_program_computes_the_same(program, prefix, trained, fresh):
    with torch.no_grad():
        for project in trained.input_proj:
            project[0].bias.zero_()  # MMDetection has none
    content = {"model": {f"{prefix}{k}": v for k, v in PROGRAMS[program](trained.state_dict()).items()}}
    weights = weights_of(content, FILE, fresh.state_dict())
    fit = load_what_fits(fresh, weights.tensors, FILE, notes=weights.notes)
    assert (fit.missing, fit.unexpected, fit.adapted) == ([], [], [])
    assert all(torch.equal(a, b) for a, b in zip(outputs(trained), outputs(fresh), strict=True))
    assert f"a checkpoint of {program}" in str(fit)


@pytest.mark.parametrize("uses_timm", [True, False])
def test_a_deformable_detr_gives_all_but_what_dino_adds(uses_timm, trained, fresh):
    content = as_hugging_face(trained.state_dict(), uses_timm=uses_timm)
    content["model.query_position_embeddings.weight"] = torch.zeros(300, 64)
    weights = weights_of(content, FILE, fresh.state_dict())
    fit = load_what_fits(fresh, weights.tensors, FILE)
    assert fit.unexpected == ["query_position_embeddings.weight"]
    assert all(any(part in name for part in ABSENT_IN_DEFORMABLE_DETR) for name in fit.missing)
    assert len(fit.missing) == 1 + 1 + 4 + 2
    for name in fit.missing:
        fresh.state_dict()[name].copy_(trained.state_dict()[name])
    assert all(torch.equal(a, b) for a, b in zip(outputs(trained), outputs(fresh), strict=True))
    with pytest.raises(CheckpointError, match="content queries"):
        require_exact(weights, FILE)


@pytest.mark.parametrize("program", PUBLISHED)
def test_published_names_are_mapped_to_official_ones_of_the_same_shape(program):
    official = dict(golden_params()["DINO_4scale_91"]["state_dict"])
    (source,) = [source for source in SOURCES if source.name == program]
    for name, (shape, wanted) in PUBLISHED[program].items():
        assert source.official_name(name) == wanted, name
        if wanted is None or "_embed.6." in wanted:  # the head of the proposals, placed afterwards
            continue
        assert shape == [80 if n in (91, 92) else n for n in official[wanted]]  # 80 classes there


def test_every_name_of_a_resnet_50_has_one_in_each_program_and_back():
    shapes = golden_params()["DINO_4scale_91"]["state_dict"]
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes}
    for program, inverse in PROGRAMS.items():
        (source,) = [source for source in SOURCES if source.name == program]
        names = [k.removeprefix("model.") for k in inverse(weights) if "num_batches" not in k]
        assert [name for name in names if source.official_name(name) is None] == [], program
        assert len({source.official_name(name) for name in names}) == len(names), program


def test_heads_of_their_own_are_stated_and_not_evaluated(trained):
    content = as_mmdetection(trained.state_dict())
    content["bbox_head.cls_branches.0.bias"] = content["bbox_head.cls_branches.0.bias"] + 1
    weights = weights_of(content, FILE, trained.state_dict())
    assert torch.equal(weights.tensors["class_embed.0.bias"], trained.state_dict()["class_embed.0.bias"])
    with pytest.raises(CheckpointError, match=r"other\.pth: a checkpoint of MMDetection, .* class_embed of its own"):
        require_exact(weights, FILE)
    assert not weights_of(as_mmdetection(trained.state_dict()), FILE, trained.state_dict()).inexact


def test_rows_of_coco_are_placed_at_its_category_ids():
    assert (len(COCO_IDS), COCO_IDS[:13], COCO_IDS[-1]) == (80, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14], 90)
    many = ("num_classes=91", "dn_labelbook_size=91", "restrict_to_categories=False")
    official = build(*many, category_ids=None)[0].state_dict()
    few = {k: v[COCO_IDS] if "class_embed" in k or "label_enc" in k else v for k, v in official.items()}
    weights = arrange(as_mmdetection(few), official, FILE)
    for name in ("class_embed.2.weight", "label_enc.weight", "transformer.enc_out_class_embed.bias"):
        placed = weights.tensors[name]
        assert placed.shape == official[name].shape
        assert torch.equal(placed[COCO_IDS], official[name][COCO_IDS])
        assert (placed[[0, 12, 83]] == (NEVER if name.endswith("bias") else 0)).all()
    assert "the rows of its 80 classes are placed at the category ids of COCO" in weights.notes


def test_another_backbone_is_refused(trained):
    names = {k.replace("layer", "stages"): v for k, v in as_mmdetection(trained.state_dict()).items()}
    names = {k: v for k, v in names.items() if not k.startswith(("backbone.conv1", "backbone.bn1"))}
    with pytest.raises(CheckpointError, match="another backbone"):
        arrange(
            {k.replace("encoder.stages", "encoder.layers"): v for k, v in names.items()}, trained.state_dict(), FILE
        )


def test_a_checkpoint_of_an_unknown_program_is_refused_with_counts(trained):
    content = {f"blocks.{i}.weight": torch.zeros(2) for i in range(40)}
    with pytest.raises(CheckpointError, match=r"only 0 of the model's \d+ tensors fit .*40 not needed: blocks\.0"):
        load_what_fits(trained, weights_of(content, FILE, trained.state_dict()).tensors, FILE)


BGR = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("extra", "meta", "phrase"),
    [
        ({"pixel_mean": BGR}, None, "BGR"),
        ({"pixel_mean": BGR.flip(0)}, None, ""),
        ({"pixel_mean": BGR.flip(0) / 255}, None, ""),
        ({"pixel_mean": torch.zeros(3, 1, 1)}, None, "mean 0, 0, 0 instead of 123.675"),
        ({}, "data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)", "BGR"),
        ({}, "dict(mean=[123.675, 116.28, 103.53], std=[1.0, 1.0, 1.0])", "standard deviation 1, 1, 1 instead"),
        ({}, "dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])", ""),
    ],
)
def test_other_colours_are_a_warning(trained, extra, meta, phrase):
    content = {"state_dict": {**as_mmdetection(trained.state_dict()), **extra}, "meta": {"cfg": meta}}
    notes = [n for n in weights_of(content, FILE, trained.state_dict()).notes if n.startswith("warning")]
    assert bool(notes) == bool(phrase)
    assert phrase in "".join(notes)
