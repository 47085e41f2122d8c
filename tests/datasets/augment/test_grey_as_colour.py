"""Whether a grey image is kept as one channel or as three equal ones, its pixels are the same after any step."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.augment.mixing import Mixer
from datasets.augment.steps import equalize, erase_outside, make_noise, vary_levels, warp
from datasets.augment.transforms import (
    TrainTransform,
    crop_to,
    flip_horizontally,
    resize,
    resize_to_square,
    to_tensors,
)
from datasets.dataset import Generators

SIDE, SEED = st.integers(1, 130), st.integers(0, 2**32)
STEPS = {
    "warp": partial(warp, rotate=20.0, zoom=0.3),
    "clahe": partial(equalize, probability=1.0, largest_clip=4.0),
    "levels": partial(vary_levels, brightness=0.4, contrast=0.4, gamma=0.5),
    "noise": partial(make_noise, largest=30.0),
    "erase": partial(erase_outside, probability=1.0, largest_area=0.4),
}


def xray(width, height, seed=0, boxes=()):
    """A grey image, with noise from black to white, and its target."""
    levels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Image.fromarray(levels), {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.long)}


def rngs(seed):
    return Generators(np.random.default_rng(seed), np.random.default_rng(seed + 1), (seed,))


def assert_same(one, three):
    (grey, target), (colour, found) = one, three
    assert (grey.mode, colour.mode) == ("L", "RGB")
    assert np.array_equal(np.repeat(np.asarray(grey)[..., None], 3, axis=2), np.asarray(colour))
    assert torch.equal(target["boxes"], found["boxes"])
    assert torch.equal(target["labels"], found["labels"])


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SEED)
def test_flips_resizes_and_crops(width, height, side, seed):
    grey, target = xray(width, height, seed)
    colour = grey.convert("RGB")
    cut = partial(crop_to, top=height // 3, left=width // 4, height=height - height // 3, width=width - width // 2)
    for change in (flip_horizontally, partial(resize, size=side), partial(resize_to_square, size=side), cut):
        assert_same(change(grey, target), change(colour, target))


@pytest.mark.parametrize("size", [352, 416, 448, 576, 640])
def test_resizes_of_the_recipe(size):
    grey, target = xray(512, 512, size)
    assert_same(resize_to_square(grey, target, size), resize_to_square(grey.convert("RGB"), target, size))


@pytest.mark.parametrize("step", STEPS)
@settings(deadline=None, max_examples=40)
@given(SIDE, SIDE, SEED)
def test_steps_for_x_rays(step, width, height, seed):
    grey, target = xray(width, height, seed, [[0, 0, width / 3, height / 3]])
    assert_same(*(STEPS[step](image, target, rngs(seed)) for image in (grey, grey.convert("RGB"))))


@settings(deadline=None, max_examples=40)
@given(st.integers(30, 130), st.integers(30, 130), SEED)
def test_mosaics_and_copied_lesions(width, height, seed):
    def load(index, mode):
        side = width + index
        image, target = xray(side, height, seed + index, [[2 * index, 3, 2 * index + 9, 15]])
        return image.convert(mode), target

    mixer = Mixer(donors=np.arange(1, 5), num_images=5, mosaic=seed % 2, copy_paste=1.0, end_epoch=1)
    assert_same(*(mixer(0, 0, partial(load, mode=mode), rngs(seed)) for mode in ("L", "RGB")))


@pytest.mark.parametrize("colourful", range(4))
def test_one_image_in_colour_among_those_that_are_mixed_keeps_its_colour(colourful):
    def load(index, *, converts=False):
        image, target = xray(60, 60, index, [[2 * index, 3, 2 * index + 9, 15]])
        if index == colourful:
            image = Image.merge("RGB", [image, image, image.point(lambda v: 255 - v)])
        return image.convert("RGB") if converts else image, target

    mixer = Mixer(donors=np.arange(1, 4), num_images=4, mosaic=1.0, copy_paste=1.0, end_epoch=1)
    has_colour = 0
    for seed in range(12):
        ours, theirs = (mixer(0, 0, partial(load, converts=all_), rngs(seed))[0] for all_ in (False, True))
        assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs))
        has_colour += ours.mode == "RGB"
    assert has_colour


def test_the_whole_augmentation():
    sizes = dict(scales=(96, 128), max_size=160, resize_before_crop=(100, 120), crop_range=(60, 100))
    transform = TrainTransform(
        flip=0.5,
        crop=0.5,
        square=True,
        before=[STEPS["warp"]],
        after=[v for k, v in STEPS.items() if k != "warp"],
        **sizes,
    )
    grey, target = xray(110, 90, 1, [[20, 20, 60, 50]])
    for seed in range(12):
        one, three = (transform(image, target, rngs(seed)) for image in (grey, grey.convert("RGB")))
        assert one[0].shape[0] == 1
        assert torch.equal(one[0].expand(3, -1, -1), three[0])
        assert torch.equal(one[1]["boxes"], three[1]["boxes"])


@given(SIDE, SIDE)
def test_tensors_hold_the_pixels(width, height):
    grey, target = xray(width, height)
    for image, channels in ((grey, 1), (grey.convert("RGB"), 3)):
        pixels, _ = to_tensors(image, target)
        assert (pixels.shape, pixels.dtype) == ((channels, height, width), torch.uint8)
        assert pixels.is_contiguous()
        assert np.array_equal(pixels.permute(1, 2, 0).numpy().squeeze(), np.asarray(image).squeeze())
