"""An image file -> 8-bit RGB pixels, whatever the file holds."""

from pathlib import Path

import numpy as np
from PIL import Image

# 16-bit greyscale; older versions of Pillow open such a PNG in the 32-bit mode "I".
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
# What Pillow raises for files that are truncated, damaged, too large, or no images at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_rgb(path: Path) -> Image.Image:
    """The image at `path` in mode RGB.

    Greyscale is repeated over the channels, transparency is dropped, a palette is looked up, and 16 bits are scaled
    to 8 by their full range (65535 becomes 255), so that equal files give equal pixels.

    Raises:
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    with Image.open(path) as image:
        _check_mode(image)
        if image.mode in DEEP_MODES:
            return _from_16_bits(np.asarray(image)).convert("RGB")
        return image.convert("RGB")


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone: the pixels may still turn out to be damaged.

    Raises:
        one of UNREADABLE: the file is missing, no image, or of a kind that has no sensible 8-bit form.
    """
    with Image.open(path) as image:
        _check_mode(image)
        return image.height, image.width


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers; save the image with 8 or 16 bits")


def _from_16_bits(pixels: np.ndarray) -> Image.Image:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits; save with 8 or 16 bits")
    return Image.fromarray(np.round(pixels / 257.0).astype(np.uint8))
