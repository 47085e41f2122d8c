"""8-bit pixels -> what the network gets: colours with ImageNet's mean and deviation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Red, green, blue on [0, 1]: what the public ImageNet backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST = 255.0


def normalised(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels [B, 1 or 3, H, W] 8-bit -> [B, 3, H, W], where they are, by the same arithmetic on every device.

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
    """[], [3, 1, 1] and [3, 1, 1], sent once: by a number from the host a GPU divides in another rounding."""
    with torch.inference_mode(False):  # the first to ask may be an evaluation, the next a training
        here = [torch.tensor(LARGEST), *(torch.tensor(c)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))]
        largest, mean, std = (tensor.to(device, non_blocking=True) for tensor in here)
    return largest, mean, std
