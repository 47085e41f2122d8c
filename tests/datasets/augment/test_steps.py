import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.augment.steps import erase_outside, steps_after, steps_before, vary_levels, warp
from datasets.augment.transforms import TrainTransform
from datasets.dataset import Generators

SIZES = dict(flip=0.5, crop=0.5, scales=(64, 96), max_size=128, resize_before_crop=(80,), crop_range=(60, 80))
BEFORE = dict(rotate=10.0, zoom=0.1)
AFTER = dict(
    clahe=0.5,
    clahe_clip=3.0,
    brightness=0.2,
    contrast=0.2,
    gamma=0.3,
    noise=5.0,
    erase_probability=1.0,
    erase_area=0.1,
)
OFF = {**dict.fromkeys(AFTER, 0.0), "clahe_clip": 3.0, "erase_area": 0.1}


def rngs(image, window=0):
    return Generators(np.random.default_rng(image), np.random.default_rng(window), (image,))


def sample():
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.integers(60, 200, (100, 100, 1), dtype=np.uint8), 3, axis=2)
    target = {"boxes": torch.tensor([[30.0, 30, 60, 70]]), "labels": torch.tensor([1])}
    return Image.fromarray(pixels), target


def transform(before=None, after=None, **changes):
    steps = {"before": steps_before(**(before or BEFORE)), "after": steps_after(**(after or AFTER))}
    return TrainTransform(**{**SIZES, **changes}, square=True, **steps)


def test_what_is_off_is_no_step_at_all():
    assert steps_before(rotate=0.0, zoom=0.0) == ()
    assert steps_after(**OFF) == ()


@pytest.mark.parametrize("name", ["clahe", "brightness", "contrast", "gamma", "noise", "erase_probability"])
def test_each_knob_switches_one_step_on_and_the_step_does_something(name):
    (step,) = steps_after(**{**OFF, name: AFTER[name]})
    image, target = sample()
    changed = [step(image, target, rngs(i)) for i in range(20)]
    assert any(not np.array_equal(np.asarray(after), np.asarray(image)) for after, _ in changed)
    assert all(torch.equal(found["boxes"], target["boxes"]) for _, found in changed)
    assert all(after.size == image.size for after, _ in changed)


def test_an_image_follows_from_its_name_alone():
    for seed in range(5):
        (one, target), (two, found) = (transform()(*sample(), rngs(seed)) for _ in range(2))
        assert torch.equal(one, two)
        assert torch.equal(target["boxes"], found["boxes"])


@pytest.mark.parametrize("name", ["clahe", "brightness", "noise", "erase_probability"])
def test_switching_a_step_off_changes_no_draw_of_the_others(name):
    """The boxes tell flip, crop, scale and warp; they stay."""
    less = {**AFTER, name: 0.0}
    for seed in range(5):
        full, part = (transform(after=a)(*sample(), rngs(seed))[1] for a in (AFTER, less))
        assert torch.equal(full["boxes"], part["boxes"])


def test_no_step_draws_from_the_generators_that_others_use():
    own = rngs(0)
    for step in (*steps_before(**BEFORE), *steps_after(**AFTER)):
        step(*sample(), own)
    fresh = rngs(0)
    assert own.image.random() == fresh.image.random()
    assert own.window.random() == fresh.window.random()


def test_switching_the_warp_on_changes_no_draw_of_flip_and_crop():
    """A warp that does nothing takes its draws; the images are the same."""
    still = {"rotate": 0.0, "zoom": 1e-12}
    plain = TrainTransform(**SIZES, square=True)
    moved = TrainTransform(**SIZES, square=True, before=steps_before(**still))
    for seed in range(6):
        one, other = plain(*sample(), rngs(seed)), moved(*sample(), rngs(seed))
        assert (one[0].int() - other[0].int()).abs().max() <= 1
        assert torch.allclose(one[1]["boxes"], other[1]["boxes"], atol=1e-5)


def test_all_steps_can_be_sent_to_a_worker():
    sent = pickle.loads(pickle.dumps(transform()))
    assert torch.equal(sent(*sample(), rngs(3))[0], transform()(*sample(), rngs(3))[0])


def test_a_box_still_frames_its_lesion_after_all_geometry():
    """A white ellipse on black, warped, flipped, cropped and resized: tight to two pixels and a half."""
    y, x = np.mgrid[:200, :200] + 0.5
    pixels = np.where(np.hypot((x - 90) / 30, (y - 100) / 20) < 1, 255, 0).astype(np.uint8)
    target = {"boxes": torch.tensor([[60.0, 80, 120, 120]]), "labels": torch.tensor([1])}
    sizes = {"scales": (160, 200), "max_size": 200, "resize_before_crop": (180, 200), "crop_range": (150, 180)}
    changed = transform(before={"rotate": 15.0, "zoom": 0.15}, after=OFF, **sizes)
    for seed in range(40):
        image, found = changed(Image.fromarray(pixels).convert("RGB"), target, rngs(seed, seed))
        rows, columns = torch.where(image[0] > 123)
        height, width = found["size"].tolist()
        cx, cy, w, h = (found["boxes"][0] * torch.tensor([width, height, width, height])).tolist()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], seen, atol=2.5), seed


def test_turns_and_scales_fill_their_range():
    boxes = [warp(*sample(), rngs(i), rotate=0.0, zoom=0.2)[1]["boxes"][0] for i in range(200)]
    widths = np.array([float(b[2] - b[0]) for b in boxes]) / 30
    assert widths.min() == pytest.approx(0.8, abs=0.02)
    assert widths.max() == pytest.approx(1.2, abs=0.02)
    assert widths.mean() == pytest.approx(1.0, abs=0.03)


def test_levels_fill_their_range_evenly():
    image, target = sample()
    before = np.asarray(image).mean()
    changed = [
        np.asarray(vary_levels(image, target, rngs(i), brightness=0.3, contrast=0.0, gamma=0.0)[0]).mean() / before
        for i in range(200)
    ]
    assert min(changed) == pytest.approx(0.7, abs=0.03)
    assert max(changed) == pytest.approx(1.3, abs=0.04)


def test_images_are_erased_as_often_as_asked_and_never_inside_a_box():
    image, target = sample()
    pixels, times = np.asarray(image), 0
    for i in range(300):
        after = np.asarray(erase_outside(image, target, rngs(i), probability=0.4, largest_area=0.2)[0])
        assert np.array_equal(after[30:70, 30:60], pixels[30:70, 30:60])
        times += not np.array_equal(after, pixels)
    assert times == pytest.approx(0.4 * 300, abs=30)
