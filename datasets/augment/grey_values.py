"""Augmentation of the grey values of an X-ray; boxes stay as they are. Images are PIL images of mode L or RGB.

The result is the same to the bit whether an image has one channel or three equal ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from util.detection.boxes import touches

GREYS = 256
TILES = 8  # per side; Zuiderveld's usual choice
LONGEST_SIDE_RATIO = 3.0  # of an erased rectangle


def adjust_levels(image: Image.Image, *, brightness: float, contrast: float, gamma: float) -> Image.Image:
    """Change gamma, then contrast about the mean, then brightness; rounded once. Factors of 1 change nothing."""
    levels = (np.arange(GREYS) / (GREYS - 1)) ** gamma
    bands = len(image.getbands())
    counts = np.reshape(image.histogram(), (-1, GREYS)).sum(axis=0) * (3 // bands)  # as of three channels
    mean = (counts @ levels) / counts.sum()
    levels = ((levels - mean) * contrast + mean) * brightness
    table = (levels * (GREYS - 1)).round().clip(0, GREYS - 1).astype(int).tolist()
    return image.point(table * bands)


def equalize_locally(image: Image.Image, clip: float) -> Image.Image:
    """Contrast-limited adaptive histogram equalization (CLAHE; Zuiderveld, Graphics Gems IV, 1994).

    Each of 8 x 8 tiles has its own equalizing curve; a pixel is interpolated between the four curves around it.

    Args:
        image: a colour image keeps the differences of its channels.
        clip: the largest slope of a curve: 1 changes hardly anything, 4 is strong.
    """
    grey = np.asarray(image.convert("L"))
    change = _equalized(grey, clip) - grey.astype(np.int16)
    return _changed(image, change)


def add_noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """Add Gaussian noise of a standard deviation in grey levels of 255, independent from pixel to pixel."""
    noise = rng.standard_normal((image.height, image.width), dtype=np.float32) * np.float32(deviation)
    return _changed(image, noise)


def erase(image: Image.Image, rectangle: tuple[int, int, int, int]) -> Image.Image:
    """Fill the rectangle (left, top, right, bottom) with the mean colour of the image."""
    erased = image.copy()
    mean = np.asarray(image).reshape(image.width * image.height, -1).mean(axis=0).round().astype(int).tolist()
    erased.paste(tuple(mean), rectangle)
    return erased


def draw_rectangle(
    width: int, height: int, largest_share: float, boxes: Tensor, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a rectangle (left, top, right, bottom) that touches no box, of up to `largest_share` of the image.

    Its area is uniform, its sides differ by a factor of up to 3; None where ten draws touch a box.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0, largest_share)
        ratio = LONGEST_SIDE_RATIO ** rng.uniform(-1, 1)
        wide = min(width, max(1, round((area * ratio) ** 0.5)))
        high = min(height, max(1, round((area / ratio) ** 0.5)))
        left = rng.integers(width - wide, endpoint=True)
        top = rng.integers(height - high, endpoint=True)
        rectangle = int(left), int(top), int(left) + wide, int(top) + high
        if not touches(rectangle, boxes):
            return rectangle
    return None


def _changed(image: Image.Image, change: NDArray) -> Image.Image:
    """Add the same change [H, W] to every channel, rounded."""
    pixels = np.asarray(image)
    changed = pixels + (change[..., None] if pixels.ndim == 3 else change)
    return Image.fromarray(changed.round().clip(0, GREYS - 1).astype(np.uint8))


def _equalized(grey: NDArray[np.uint8], clip: float) -> NDArray[np.int16]:
    """[H, W]: every pixel interpolated between the curves of its four tiles."""
    curves = _curves(grey, clip)
    (top, bottom, down), (left, right, across) = (_neighbours(side) for side in grey.shape)
    down = down[:, None]
    across = across[None, :]
    rows = [row[:, None] for row in (top, bottom)]
    above, below = ((1 - across) * curves[r, left, grey] + across * curves[r, right, grey] for r in rows)
    return ((1 - down) * above + down * below).round().astype(np.int16)


def _curves(grey: NDArray[np.uint8], clip: float) -> NDArray[np.float32]:
    """[8, 8, 256]: the new level of each level in each tile; counts above the limit are spread over all levels."""
    height, width = grey.shape
    tile = (_tile_of(height)[:, None] * TILES + _tile_of(width)[None, :]).astype(np.int64)
    counts = np.bincount((tile * GREYS + grey).ravel(), minlength=TILES**2 * GREYS).reshape(TILES**2, GREYS)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    limited = shares.clip(max=clip / GREYS)
    limited += (1 - limited.sum(axis=1, keepdims=True)) / GREYS
    curves = (limited.cumsum(axis=1) - limited / 2) * GREYS - 0.5  # the middle of a level's step; no tile: no change
    return curves.reshape(TILES, TILES, GREYS).astype(np.float32)


def _tile_of(side: int) -> NDArray[np.int64]:
    """[side]: the tile of each row or column."""
    return np.arange(side) * TILES // side


def _neighbours(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """[side] each: the tiles before and after a row or column, and its relative position between their centres."""
    place = ((np.arange(side) + 0.5) * TILES / side - 0.5).clip(0, TILES - 1)
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, TILES - 1), (place - before).astype(np.float32)
