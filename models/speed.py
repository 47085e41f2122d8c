"""Ways to compute the same network faster or in less memory; a network is built without them."""

import subprocess
import time
from collections.abc import Iterable
from functools import cache
from typing import Literal

import torch
import torch.fx.experimental._config
from torch import nn

from models.backbones.resnet import FrozenBatchNorm2d
from models.dino import DINO
from models.layers import Linear
from models.transformer.decoder import Decoder
from models.transformer.encoder import Encoder
from util.config.schema import SpeedConfig

# A function gets one program per kind of layer, mode (training, inference), number of images (one, several), presence
# of denoising queries and type. Beyond torch's limit of 8 it would compile none, without a warning.
MOST_PROGRAMS = 64


def set_speed(model: DINO, speed: SpeedConfig) -> DINO:
    """Set the knobs of speed in place, as in util.config.schema. Weights and their names stay the same."""
    for module in model.modules():
        if isinstance(module, Linear | FrozenBatchNorm2d):
            module.is_fast = speed.fast_layers
        if isinstance(module, Encoder | Decoder):
            module.is_recomputed = speed.activation_checkpointing
    if speed.channels_last:  # the weights are enough: a convolution follows their layout, and its output has it too
        model.backbone.to(memory_format=torch.channels_last)
        model.input_proj.to(memory_format=torch.channels_last)
    return model


def compile_parts(
    models: Iterable[DINO], which: Literal["off", "backbone", "model"], device: torch.device
) -> str | None:
    """Compile parts of networks in place, each at its first call.

    Sizes are compiled as symbols, so one program serves all scales and all numbers of queries. Batches of one image
    and of several, training and inference, batches with and without denoising queries get programs of their own, and so
    do images below some 200 pixels on a CPU: PyTorch gives maps of up to 20,480 elements to another convolution.

    Args:
        models: the networks; copy.deepcopy does not copy the compilation, so give a copy too.
        which: "backbone", "model": the layers of encoder and decoder too, "off": nothing.
        device: where they will run.

    Returns:
        why nothing was compiled, as the end of a sentence; None if it was.
    """
    if which == "off":
        return None
    if reason := why_not(device.type):
        return reason
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_PROGRAMS)
    torch.fx.experimental._config.use_duck_shape = False  # or a square image gives a program for squares only
    for model in models:
        for part in parts_of(model, which):
            part.compile(dynamic=True)
    return None


def parts_of(model: DINO, which: str) -> list[nn.Module]:
    """The parts to compile: the backbone; for "model" the transformer's layers too."""
    layers = [*model.transformer.encoder.layers, *model.transformer.decoder.layers] if which == "model" else []
    return [model.backbone[0], *layers]


@cache
def why_not(device_type: str) -> str | None:
    """Why torch.compile cannot be used on "cpu" or "cuda", in one line, or None; tested once, on a tiny function.

    The function holds a number that was never compiled before, so that the cache on disk does not hide a compiler that
    is gone.
    """
    number = time.time_ns() % 10**9 / 10**9
    function = torch.compile(lambda x: (x * number).sin() + 1, dynamic=False)
    try:
        function(torch.ones(64, device=device_type))
    except (RuntimeError, ImportError, OSError, AssertionError, subprocess.SubprocessError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {first}"[:300]
    return None
