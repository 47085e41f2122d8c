"""What an image is to the network: its size there, and its pixels as numbers. Training and use share it."""

import torch
from PIL import Image
from torch import Tensor


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
    """[1 or 3, h, w] 8-bit, of a grey or an RGB image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()
