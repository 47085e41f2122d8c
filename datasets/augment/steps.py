"""Augmentation steps for X-rays: each draws from a generator of its own and calls one pure function.

So an image is a function of (seed, epoch, image), and switching one step on changes no draw of the others.
"""

from __future__ import annotations

from functools import partial

from PIL import Image

from datasets.augment.grey_values import add_noise, adjust_levels, draw_rectangle, equalize_locally, erase
from datasets.augment.transforms import Step
from datasets.augment.warp import rotate_and_scale
from datasets.dataset import Generators, LabelledImage
from util.detection.batch import Target


def steps_before(*, rotate: float, zoom: float) -> tuple[Step, ...]:
    """Steps on the image as it is in its file, 0 being off; see `warp`."""
    return (partial(warp, rotate=rotate, zoom=zoom),) if rotate or zoom else ()


def steps_after(
    *,
    clahe: float,
    clahe_clip: float,
    brightness: float,
    contrast: float,
    gamma: float,
    noise: float,
    erase_probability: float,
    erase_area: float,
) -> tuple[Step, ...]:
    """Steps on the image in its final size, 0 being off; see the functions below."""
    steps = (
        (clahe, partial(equalize, probability=clahe, largest_clip=clahe_clip)),
        (brightness or contrast or gamma, partial(vary_levels, brightness=brightness, contrast=contrast, gamma=gamma)),
        (noise, partial(make_noise, largest=noise)),
        (erase_probability, partial(erase_outside, probability=erase_probability, largest_area=erase_area)),
    )
    return tuple(step for is_on, step in steps if is_on)


def warp(image: Image.Image, target: Target, rngs: Generators, *, rotate: float, zoom: float) -> LabelledImage:
    """Rotate by up to `rotate` degrees either way, scale by a factor between 1 - `zoom` and 1 + `zoom`."""
    degrees, change = rngs.of_step("warp").uniform(-1, 1, size=2).tolist()
    return rotate_and_scale(image, target, degrees * rotate, 1 + change * zoom)


def equalize(
    image: Image.Image, target: Target, rngs: Generators, *, probability: float, largest_clip: float
) -> LabelledImage:
    """Apply CLAHE with a probability, with a clip limit between 1 and `largest_clip`."""
    rng = rngs.of_step("clahe")
    if rng.random() >= probability:
        return image, target
    return equalize_locally(image, rng.uniform(1, largest_clip)), target


def vary_levels(
    image: Image.Image, target: Target, rngs: Generators, *, brightness: float, contrast: float, gamma: float
) -> LabelledImage:
    """Change brightness and contrast by factors between 1 - x and 1 + x, gamma between 1 / (1 + x) and 1 + x."""
    a, b, c = rngs.of_step("levels").uniform(-1, 1, size=3).tolist()
    changed = adjust_levels(image, brightness=1 + a * brightness, contrast=1 + b * contrast, gamma=(1 + gamma) ** c)
    return changed, target


def make_noise(image: Image.Image, target: Target, rngs: Generators, *, largest: float) -> LabelledImage:
    """Add Gaussian noise of a standard deviation between 0 and `largest` grey levels of 255."""
    rng = rngs.of_step("noise")
    return add_noise(image, rng.uniform(0, largest), rng), target


def erase_outside(
    image: Image.Image, target: Target, rngs: Generators, *, probability: float, largest_area: float
) -> LabelledImage:
    """Erase one rectangle that touches no box, of up to `largest_area` of the image (Zhong et al., 1708.04896)."""
    rng = rngs.of_step("erase")
    if rng.random() >= probability:
        return image, target
    rectangle = draw_rectangle(image.width, image.height, largest_area, target["boxes"], rng)
    return (erase(image, rectangle) if rectangle else image), target
