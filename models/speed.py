"""Ways to compute the same network faster or in less memory: a network is built plain, and switched here."""

import torch
from torch import nn

from models.transformer.decoder import Decoder
from models.transformer.encoder import Encoder


def set_speed(model: nn.Module, *, fast_layers: bool, channels_last: bool, activation_checkpointing: bool) -> nn.Module:
    """Switch a network, in place; meanings as in util.schema. No weight changes, and none changes its name."""
    for module in model.modules():
        if hasattr(module, "is_fast"):
            module.is_fast = fast_layers
        if isinstance(module, Encoder | Decoder):
            module.is_recomputed = activation_checkpointing
    if channels_last:  # the weights are enough: a convolution goes by them, and hands its layout on
        model.backbone.to(memory_format=torch.channels_last)
        model.input_proj.to(memory_format=torch.channels_last)
    return model
