"""What an image is to the network: its size there, and its pixels as numbers. Training and use share it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Red, green, blue on [0, 1]: what the public ImageNet backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resized_size(width: int, height: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """(width, height) such that the shorter side is `size`, less where the longer one would exceed `max_size`.

    The longer side is truncated, not rounded; an image whose shorter side is right already keeps its size.
    """
    short, long = min(width, height), max(width, height)
    if max_size is not None and long / short * size > max_size:
        # A strip so narrow that it would round to nothing keeps one pixel.
        size = max(1, round(max_size * short / long))
    if short == size:
        return width, height
    return (size, int(size * height / width)) if width < height else (int(size * width / height), size)


def network_pixels(image: Image.Image) -> Tensor:
    """[3, h, w] with ImageNet's mean and deviation, of an RGB image."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(torch.tensor(IMAGENET_MEAN)[:, None, None]).div_(torch.tensor(IMAGENET_STD)[:, None, None])
