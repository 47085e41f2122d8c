"""Weights from their names alone: the fill rule of the golden figures.

Each value is a hash of (name, position), so every implementation of the network can be given the same weights.
"""

import math
import re
import zlib

import numpy as np
import torch
from torch import nn

SALT = {"transformer.enc_out_class_embed.weight": "#54642"}


def uniform(name, count):
    """`count` numbers in [0, 1), multiples of 2^-24, from the CRC of a name."""
    step, mask = np.uint64(0x9E3779B9), np.uint64(0xFFFFFFFF)
    x = (np.uint64(zlib.crc32(name.encode())) + np.arange(1, count + 1, dtype=np.uint64) * step) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & mask
    return ((x ^ (x >> np.uint64(16))) >> np.uint64(8)).astype(np.float64) / 2**24


def canonical(key):
    """One name for the twelve aliases of a head tensor."""
    key = re.sub(r"^transformer\.decoder\.((?:bbox|class)_embed\.)", r"\1", key)
    return re.sub(r"^(bbox_embed|class_embed)\.\d+\.", r"\1.0.", key)


# (pattern of the canonical name, center, amplitude, gain): the amplitude, or gain * sqrt(3 / fan_in) if it is None.
RULES = [
    (r"running_var$", 1.0, 0.2, 0),
    (r"running_mean$", 0.0, 0.1, 0),
    (r"relative_position_bias_table$", 0.0, 0.5, 0),
    (r"\.gamma$", 0.3, 0.1, 0),
    (r"sampling_offsets\.bias$", 0.0, 3.0, 0),
    (r"sampling_offsets\.weight$", 0.0, None, 0.5),
    (r"attention_weights\.bias$", 0.0, 0.5, 0),
    (r"^(class_embed\.0|transformer\.enc_out_class_embed)\.bias$", -2.0, 0.5, 0),
    (r"^(bbox_embed\.0|transformer\.enc_out_bbox_embed)\.layers\.2\.weight$", 0.0, None, 0.5),
    (r"^class_embed\.0\.weight$", 0.0, None, 2.0),
    (r"^transformer\.decoder\..*(attention_weights|value_proj)\.weight$", 0.0, None, 3.0),
    (r"^(label_enc\.weight|transformer\.tgt_embed\.weight|transformer\.level_embed)$", 0.0, 1.0, 0),
]
ONE_DIMENSION = [(r"\.bn3\.weight$", 0.4, 0.1, 0), (r"weight$", 1.0, 0.1, 0), (r"", 0.0, 0.1, 0)]
CONVOLUTION = [(r"^backbone\.", 0.0, None, 1.4)]
MATRIX = [(r"", 0.0, None, 1.0)]


def center_and_amplitude(key, shape):
    by_rank = ONE_DIMENSION if len(shape) <= 1 else (CONVOLUTION if len(shape) == 4 else []) + MATRIX
    center, amplitude, gain = next(rule[1:] for rule in RULES + by_rank if re.search(rule[0], key))
    return center, gain * math.sqrt(3 / math.prod(shape[1:])) if amplitude is None else amplitude


def values(key, shape):
    """float32 array for the state-dict entry `key` of the whole network."""
    key, shape = canonical(key), tuple(shape)
    center, amplitude = center_and_amplitude(key, shape)
    draws = 2 * uniform(key + SALT.get(key, ""), math.prod(shape)) - 1
    return (center + amplitude * draws).astype(np.float32).reshape(shape)


@torch.no_grad()
def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Fill a module in place through its state dict; `prefix` is where the whole network would hold it."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(values(prefix + key, tensor.shape)))
    return module


def image(index, height, width):
    """Image `index` of the golden batch, [3, h, w] float32: already normalised network input."""
    channel, y, x = np.ogrid[:3, :height, :width]
    smooth = 2 * triangle(x * (3 + channel) + 11 * index, 97) + 2 * triangle(y * (5 - channel) + 7 * x + 13 * index, 61)
    noise = 2 * uniform(f"pixel{index}", 3 * height * width).reshape(3, height, width) - 1
    return torch.from_numpy((smooth - 2 + 0.5 * noise).astype(np.float32))


def triangle(t, period):
    return np.abs(2.0 * np.mod(t, period) / period - 1.0)


def golden_images():
    """The golden batch: images [2, 3, 256, 320] zero padded, mask [2, 256, 320] True on padding."""
    images, mask = torch.zeros(2, 3, 256, 320), torch.ones(2, 256, 320, dtype=torch.bool)
    for index, (height, width) in enumerate([(256, 320), (224, 288)]):
        images[index, :, :height, :width] = image(index, height, width)
        mask[index, :height, :width] = False
    return images, mask
