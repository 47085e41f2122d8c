"""What an image is to the network: its size there, and its pixels as numbers. Training and use share it."""

import torch
from PIL import Image
from torch import Tensor

NARROW = 8  # times as long as wide: no X-ray is, they stay below 2


def resized_size(width: int, height: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """(width, height) such that the shorter side is `size`, less where the longer one would exceed `max_size`.

    The official rule: the longer side is truncated, not rounded; an image whose shorter side is right already keeps
    its size. The shorter side is rounded first, so the longer one may exceed `max_size` by some pixels: 1334 instead
    of 1333 at 2.3 : 1. Of narrow images it would exceed it by any number, a strip one pixel high would keep all its
    length; there the longer side is held to `max_size`.
    """
    short, long = min(width, height), max(width, height)
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
