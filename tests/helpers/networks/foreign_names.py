"""The tensors of a DINO as other programs would save them: the inverse of the key maps, written on its own.

A name is taken apart at its dots and put together again; nothing of the tables under test is used.
"""

import torch

DETREX_FEED_FORWARD = {"linear1": "ffns.0.layers.0.0", "linear2": "ffns.0.layers.1"}
MMDETECTION_NAMES = {
    "tgt_embed": "query_embedding",
    "enc_output": "memory_trans_fc",
    "enc_output_norm": "memory_trans_norm",
}
NORMS = {"encoder": ["norm1", "norm2"], "decoder": ["norm2", "norm1", "norm3"]}
HF_NORMS = {
    "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
    "decoder": {"norm2": "self_attn_layer_norm", "norm1": "encoder_attn_layer_norm", "norm3": "final_layer_norm"},
}


def _unique(weights):
    """Without the second names of tied tensors."""
    return {k: v.clone() for k, v in weights.items() if not k.startswith("transformer.decoder.") or "_embed." not in k}


def _num_layers(weights):
    return len({k.split(".")[3] for k in weights if k.startswith("transformer.decoder.layers.")})


def _num_maps(weights):
    """Projections of maps of the backbone, which are 1 x 1."""
    return sum(k.endswith(".0.weight") and v.shape[-1] == 1 for k, v in weights.items() if k.startswith("input_proj."))


def _neck(parts, maps, norm):
    level, part, kind = int(parts[1]), parts[2], parts[3]
    where = f"convs.{level}" if level < maps else f"extra_convs.{level - maps}"
    return f"neck.{where}.{'conv' if part == '0' else norm}.{kind}"


def as_detrex(weights):
    """Under the names of detrex and detectron2."""
    maps = _num_maps(weights)
    last = _num_layers(weights)
    return {_detrex_name(name.split("."), maps, last): tensor for name, tensor in _unique(weights).items()}


def _detrex_name(parts, maps, last):
    if parts[0] == "input_proj":
        return _neck(parts, maps, "norm")
    if parts[0] == "backbone":
        return _detectron_name(parts[3:])
    if parts[1].startswith("enc_out_"):
        return ".".join([parts[1].removeprefix("enc_out_"), str(last), *parts[2:]])
    if parts[1:] == ["level_embed"]:
        return "transformer.level_embeds"
    if parts[1] in NORMS and parts[2] == "layers":
        part, rest = parts[4], parts[5:]
        if part in NORMS[parts[1]]:
            part = f"norms.{NORMS[parts[1]].index(part)}"
        elif part == "cross_attn":
            part = "attentions.1"
        elif part == "self_attn":
            part = "attentions.0" if parts[1] == "encoder" else "attentions.0.attn"
        else:
            part = DETREX_FEED_FORWARD[part]
        return ".".join([*parts[:4], part, *rest])
    return ".".join(parts)


def _detectron_name(parts):
    if parts[0] == "conv1":
        return "backbone.stem.conv1.weight"
    if parts[0] == "bn1":
        return f"backbone.stem.conv1.norm.{parts[1]}"
    stage, block, part = f"res{int(parts[0][-1]) + 1}", parts[1], parts[2]
    if part == "downsample":
        return f"backbone.{stage}.{block}.shortcut.{'weight' if parts[3] == '0' else f'norm.{parts[4]}'}"
    middle = "" if part.startswith("conv") else "norm."
    return f"backbone.{stage}.{block}.conv{part[-1]}.{middle}{parts[3]}"


def as_mmdetection(weights):
    """Under the names of MMDetection, whose convolutions before a norm have no bias."""
    maps = _num_maps(weights)
    last = _num_layers(weights)
    named = {}
    for name, tensor in _unique(weights).items():
        if not (name.startswith("input_proj.") and name.endswith(".0.bias")):
            named[_mmdetection_name(name.split("."), maps, last)] = tensor
    return {**named, "backbone.bn1.num_batches_tracked": torch.tensor(0)}


def _mmdetection_name(parts, maps, last):
    whole = ".".join(parts)
    if parts[0] == "input_proj":
        return _neck(parts, maps, "gn")
    if parts[0] == "backbone":
        return ".".join(["backbone", *parts[3:]])
    if "class_embed" in whole or "bbox_embed" in whole:
        number = last if "enc_out" in whole else parts[1]
        branch = "cls_branches" if "class" in whole else "reg_branches"
        inner = "" if "class" in whole else f"{2 * int(parts[-2])}."
        return f"bbox_head.{branch}.{number}.{inner}{parts[-1]}"
    if parts[0] == "label_enc":
        return "dn_query_generator.label_embedding.weight"
    if parts[1] in MMDETECTION_NAMES:
        return f"{MMDETECTION_NAMES[parts[1]]}.{parts[2]}"
    if parts[2:3] == ["layers"]:
        part = parts[4]
        if part in NORMS[parts[1]]:
            part = f"norms.{NORMS[parts[1]].index(part)}"
        elif part.startswith("linear"):
            part = {"linear1": "ffn.layers.0.0", "linear2": "ffn.layers.1"}[part]
        elif parts[1] == "decoder" and part == "self_attn":
            part = "self_attn.attn"
        return ".".join([*parts[1:4], part, *parts[5:]])
    return ".".join(parts[1:])


def as_hugging_face(weights, *, uses_timm=True):
    """Under the names of transformers: a Deformable DETR in two stages, so without what DINO adds to it."""
    last = _num_layers(weights)
    named = {}
    for name, tensor in _unique(weights).items():
        parts = name.split(".")
        if "in_proj" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                where = ".".join(["model", *parts[1:5]])
                named[f"{where}.{letter}_proj.{parts[-1].removeprefix('in_proj_')}"] = part
        elif (other := _hugging_face_name(parts, last, uses_timm=uses_timm)) is not None:
            named[other] = tensor
    return named


def _hugging_face_name(parts, last, *, uses_timm):
    whole = ".".join(parts)
    if "tgt_embed" in whole or "label_enc" in whole or "ref_point_head" in whole or "decoder.norm" in whole:
        return None
    if parts[0] == "backbone":
        name = ".".join(parts[3:]) if uses_timm else _hugging_face_resnet_name(parts[3:])
        return f"model.backbone.conv_encoder.model.{name}"
    if "enc_out_" in whole:
        return ".".join([parts[1].removeprefix("enc_out_"), str(last), *parts[2:]])
    if parts[0] in ("class_embed", "bbox_embed"):
        return whole
    if parts[0] == "input_proj":
        return f"model.{whole}"
    if parts[2:3] == ["layers"]:
        renamed = {**HF_NORMS[parts[1]], "linear1": "fc1", "linear2": "fc2", "cross_attn": "encoder_attn"}
        return ".".join(["model", *parts[1:4], renamed.get(parts[4], parts[4]), *parts[5:]])
    return ".".join(["model", *parts[1:]])


def _hugging_face_resnet_name(parts):
    kind = "convolution" if parts[0].startswith("conv") else "normalization"
    if len(parts) == 2:
        return f"embedder.embedder.{kind}.{parts[1]}"
    where = f"encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{where}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
    kind = "convolution" if parts[2].startswith("conv") else "normalization"
    return f"{where}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"
