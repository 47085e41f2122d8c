"""Fields to draw X-rays with: pixel centres, soft steps, smooth noise."""

import numpy as np
from PIL import Image


def smooth(distance: np.ndarray) -> np.ndarray:
    """A soft step: 0 below 0, 1 above 1."""
    t = np.clip(distance, 0, 1)
    step = 3 - 2 * t
    step *= t
    step *= t
    return step


def cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise of unit deviation, [size, size], with about `cells` blobs along a side."""
    grain = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    field = enlarge(grain, size, box=(1, 1, cells + 1, cells + 1))
    return field / max(float(field[::4, ::4].std()), 1e-6)


def enlarge(field: np.ndarray, size: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """The field, or a box of it, at [size, size]."""
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def axes(size: int, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x [1, size] and y [size, 1], float32, from -margin to 1 + margin."""
    centres = ((np.arange(size) + 0.5) / size * (1 + 2 * margin) - margin).astype(np.float32)
    return centres[None, :], centres[:, None]
