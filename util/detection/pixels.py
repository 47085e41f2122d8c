"""From 8-bit pixels to the network input: size, and normalisation with ImageNet's mean and deviation."""

from __future__ import annotations

from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

NARROW = 8  # longer to shorter side, from which on an image is narrow; X-rays stay below 2

# Red, green, blue on [0, 1]: what the public ImageNet backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST = 255.0


def normalised(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels [B, 1 or 3, H, W] 8-bit -> [B, 3, H, W], on their device, in the same arithmetic on every device.

    Args:
        pixels: grey or red, green, blue.
        mask: [B, H, W], True on padding, which becomes 0.
    """
    largest, mean, std = _constants(pixels.device)
    batch, _, height, width = pixels.shape
    images = torch.empty(batch, 3, height, width, device=pixels.device)
    torch.sub(pixels.float().div_(largest), mean, out=images)
    return images.div_(std).masked_fill_(mask[:, None], 0.0)


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """[], [3, 1, 1] and [3, 1, 1], copied once: a division by a number from the host rounds differently on a GPU."""
    with torch.inference_mode(False):  # the first to ask may be an evaluation, the next a training
        values = [torch.tensor(LARGEST), *(torch.tensor(c)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))]
        largest, mean, std = (tensor.to(device, non_blocking=True) for tensor in values)
    return largest, mean, std


def resized_size(width: int, height: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """(width, height) such that the shorter side is `size`, less where the longer one would exceed `max_size`.

    The official rule: the longer side is truncated, not rounded; an image whose shorter side is right already keeps
    its size. The shorter side is rounded first, so the longer one may exceed `max_size` by some pixels: 1334 instead
    of 1333 at 2.3 : 1. Of narrow images it would exceed it by any number, a strip one pixel high would keep all its
    length; there the longer side is held to `max_size`.
    """
    short = min(width, height)
    long = max(width, height)
    is_narrow = long > NARROW * short
    if max_size is not None and long / short * size > max_size:
        # A strip so narrow that it would round to nothing keeps one pixel.
        size = max(1, round(max_size * short / long))
    if short != size:
        long = int(size * long / short)
    if max_size is not None and is_narrow:
        long = min(long, max_size)
    return (size, long) if width < height else (long, size)


def network_pixels(image: Image.Image) -> Tensor:
    """[1 or 3, h, w] 8-bit, of a grey or an RGB image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()
