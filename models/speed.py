"""Ways to compute the same network faster or in less memory: a network is built plain, and switched here."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from models.backbones.resnet import FrozenBatchNorm2d
from models.dino import DINO
from models.layers import Linear
from models.ops.compiler import allow_programs, why_not
from models.transformer.decoder import Decoder
from models.transformer.encoder import Encoder


def set_speed(model: DINO, *, fast_layers: bool, channels_last: bool, activation_checkpointing: bool) -> DINO:
    """Switch a network, in place; meanings as in util.config.schema. No weight changes, and none changes its name."""
    for module in model.modules():
        if isinstance(module, Linear | FrozenBatchNorm2d):
            module.is_fast = fast_layers
        if isinstance(module, Encoder | Decoder):
            module.is_recomputed = activation_checkpointing
    if channels_last:  # the weights are enough: a convolution goes by them, and hands its layout on
        model.backbone.to(memory_format=torch.channels_last)
        model.input_proj.to(memory_format=torch.channels_last)
    return model


def compile_parts(
    models: Iterable[DINO], which: Literal["off", "backbone", "model"], device: torch.device
) -> str | None:
    """Compile in place, at the first call of each part; what stands against it, or None.

    Sizes are compiled as symbols, so one program serves all scales and all numbers of queries. Batches of one image
    and of several, training and inference, images with and without denoising queries are programs of their own, and on
    a CPU images of less than some 200 pixels: PyTorch gives maps of up to 20,480 numbers to another convolution.

    Args:
        models: where to do it; a copy made by copy.deepcopy is not compiled, so give it too.
        which: "backbone", "model": the layers of encoder and decoder too, "off": nothing.
        device: where they will run.

    Returns:
        the reason why nothing was compiled, as the end of a sentence; None where there is none.
    """
    if which == "off":
        return None
    if reason := why_not(device.type):
        return reason
    allow_programs()
    for model in models:
        for part in parts_of(model, which):
            part.compile(dynamic=True)
    return None


def parts_of(model: DINO, which: str) -> list[nn.Module]:
    """The regions: the backbone; for "model" the transformer's layers too."""
    layers = [*model.transformer.encoder.layers, *model.transformer.decoder.layers] if which == "model" else []
    return [model.backbone[0], *layers]
