"""torch.compile on the parts of the network where it pays, as regions that never have to be compiled anew.

Compiled are the backbone and the layers of the transformer, each in place: names, copies and checkpoints stay as they
are. Between them stands plain Python, so that what depends on the boxes of a batch forces no new compilation.
Deformable attention is left out (`MSDeformAttn.forward`): its backends are faster than what the compiler makes of them.
"""

import subprocess
import time
from collections.abc import Iterable
from functools import cache
from typing import Literal

import torch
import torch.fx.experimental._config
from torch import nn

from models.dino import DINO

# one cached program per layer kind, mode (training, inference) and presence of denoising queries: more than torch's 8
MOST_PROGRAMS = 64


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
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_PROGRAMS)
    torch.fx.experimental._config.use_duck_shape = False  # or a square image gives a program for squares only
    for model in models:
        for part in parts_of(model, which):
            part.compile(dynamic=True)
    return None


def parts_of(model: DINO, which: str) -> list[nn.Module]:
    """The regions: the backbone; for "model" the transformer's layers too."""
    layers = [*model.transformer.encoder.layers, *model.transformer.decoder.layers] if which == "model" else []
    return [model.backbone[0], *layers]


@cache
def why_not(device_type: str) -> str | None:
    """What stands against torch.compile on "cpu" or "cuda" here, in one line, or None; tried once, on a tiny function.

    The function holds a number that was never compiled before: a compiler that is gone shall not be hidden by what is
    kept on the disk of its work.
    """
    number = time.time_ns() % 10**9 / 10**9
    function = torch.compile(lambda x: (x * number).sin() + 1, dynamic=False)
    try:
        function(torch.ones(64, device=device_type))
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {first}"[:300]
    return None
