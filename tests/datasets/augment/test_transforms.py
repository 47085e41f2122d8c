import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from datasets.augment.transforms import (
    EvalTransform,
    TrainTransform,
    crop_to,
    draw_crop,
    draw_square_crop,
    flip_horizontally,
    resize,
    resize_to_square,
    to_tensors,
)
from datasets.dataset import Generators
from util.detection.pixels import normalised, resized_size

GOLDEN = Path(__file__).parents[2] / "golden"
RESIZE = json.loads((GOLDEN / "data_resize.json").read_text())["sizes"]
NO_MAX = {"400", "500", "600"}
OFFICIAL = dict(
    flip=0.5,
    crop=0.5,
    scales=tuple(range(480, 801, 32)),
    max_size=1333,
    resize_before_crop=(400, 500, 600),
    crop_range=(384, 600),
    square=False,
)
SQUARE = dict(
    flip=0.5, crop=0.5, scales=(32, 48, 64), max_size=64, resize_before_crop=(40, 50), crop_range=(24, 40), square=True
)
SIDE, SEED = st.integers(1, 200), st.integers(0, 2**32)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "data_transforms.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def image(golden):
    return Image.fromarray(golden["pixels"])


@pytest.fixture
def target(golden):
    return {
        "boxes": torch.from_numpy(golden["target_in/boxes"]),
        "labels": torch.from_numpy(golden["target_in/labels"]),
    }


def blank(width, height, boxes=()):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Image.new("RGB", (width, height)), {"boxes": boxes, "labels": torch.arange(len(boxes))}


def rngs(image, window=0):
    return Generators(np.random.default_rng(image), np.random.default_rng(window), (image,))


def network_input(pixels):
    """[3, h, w]"""
    _, height, width = pixels.shape
    return normalised(pixels[None], torch.zeros(1, height, width, dtype=torch.bool))[0]


def agrees(golden, name, image, target):
    assert np.array_equal(np.asarray(image), golden[f"{name}/pixels"])
    assert np.array_equal(target["boxes"].numpy(), golden[f"{name}/boxes"])
    assert np.array_equal(target["labels"].numpy(), golden[f"{name}/labels"])


def test_a_flip_equals_the_official_one_to_the_pixel(golden, image, target):
    agrees(golden, "hflip", *flip_horizontally(image, target))


def test_a_resize_equals_the_official_one_to_the_pixel(golden, image, target):
    agrees(golden, "resize60_max65", *resize(image, target, 60, 65))


def test_a_crop_equals_the_official_one_to_the_pixel_and_drops_the_box_outside(golden, image, target):
    agrees(golden, "crop_i5_j8_h20_w22", *crop_to(image, target, top=5, left=8, height=20, width=22))


def test_the_evaluation_pipeline_equals_the_official_one_to_the_bit(golden, image, target):
    pixels, found = EvalTransform(64, 1333)(image, target, None)
    assert np.array_equal(network_input(pixels).numpy(), golden["val64/image"])
    assert np.array_equal(found["boxes"].numpy(), golden["val64/boxes"])
    assert found["size"].tolist() == golden["val64/size"].tolist() == [64, 76]


@pytest.mark.parametrize("name", RESIZE)
def test_sizes_after_a_resize_equal_the_official_table(name):
    width, height = map(int, name.split("x"))
    for scale, wanted in RESIZE[name].items():
        max_size = None if scale in NO_MAX else 1333
        assert list(resized_size(width, height, int(scale), max_size)) == wanted, scale


def test_the_longer_side_is_truncated_and_the_limit_rounded_to_even():
    assert resized_size(333, 500, 480) == (480, 720)  # 720.7
    assert resized_size(4, 3, 100, 100) == (100, 75)
    assert resized_size(1000, 25, 100, 500) == (480, 12)  # 500 * 25 / 1000 = 12.5: Python rounds to 12
    assert resized_size(1000, 35, 100, 500) == (500, 18)  # 17.5 to 18, and the longer side is held to the limit


def test_an_image_of_the_right_shorter_side_keeps_its_size():
    assert resized_size(500, 333, 333) == (500, 333)


def test_a_strip_keeps_at_least_one_pixel():
    assert resized_size(4000, 1, 800, 1333) == (1333, 1)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(32, 800))
def test_resized_sides_are_positive_and_the_orientation_stays(width, height, size):
    new_width, new_height = resized_size(width, height, size, 1333)
    assert min(new_width, new_height) >= 1
    assert (new_width - new_height) * (width - height) >= 0


def test_a_flip_twice_is_no_flip(image, target):
    twice, found = flip_horizontally(*flip_horizontally(image, target))
    assert np.array_equal(np.asarray(twice), np.asarray(image))
    assert torch.equal(found["boxes"], target["boxes"])


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**32))
def test_a_crop_lies_inside_the_image_and_in_the_range_where_the_image_allows(width, height, seed):
    top, left, crop_height, crop_width = draw_crop(width, height, (384, 600), np.random.default_rng(seed))
    assert 0 <= left <= left + crop_width <= width
    assert 0 <= top <= top + crop_height <= height
    for crop, side in ((crop_height, height), (crop_width, width)):
        assert min(384, side) <= crop <= min(600, side)


def test_crops_reach_both_ends_of_their_range_and_of_the_image():
    crops = np.array([draw_crop(6, 6, (3, 5), np.random.default_rng(i)) for i in range(300)])
    top, left, height, width = crops.T
    assert set(height) == set(width) == {3, 4, 5}
    assert min(top) == min(left) == 0
    assert max(top + height) == max(left + width) == 6


def test_a_crop_without_boxes_keeps_the_image_and_an_empty_target():
    image, target = crop_to(*blank(40, 40, [[30, 30, 40, 40]]), top=0, left=0, height=20, width=20)
    assert image.size == (20, 20)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_a_box_that_only_touches_the_crop_is_dropped():
    _, target = crop_to(*blank(40, 40, [[20, 0, 30, 10], [19, 0, 30, 10]]), top=0, left=0, height=20, width=20)
    assert target["boxes"].tolist() == [[19, 0, 20, 10]]
    assert target["labels"].tolist() == [1]


def test_pixels_are_handed_over_in_the_order_red_green_blue():
    image = Image.new("RGB", (2, 1), (255, 0, 128))
    pixels, target = to_tensors(image, blank(2, 1, [[0, 0, 1, 1]])[1])
    assert pixels.tolist() == [[[255, 255]], [[0, 0]], [[128, 128]]]
    assert target["boxes"].tolist() == [[0.25, 0.5, 0.5, 1.0]]
    assert target["size"].tolist() == [1, 2]


@pytest.mark.slow
def test_training_sizes_have_the_official_distribution():
    """Of 3000 official draws on 512 x 512: smallest side 480, largest at most 1250, half square, mean side 654."""
    transform = TrainTransform(**OFFICIAL)
    image, target = blank(512, 512)
    sizes = np.array([transform(image, target, rngs(i))[1]["size"].tolist() for i in range(300)])
    assert sizes.min() == 480
    assert sizes.max() <= 1250
    assert 0.4 < (sizes[:, 0] == sizes[:, 1]).mean() < 0.6
    assert 630 < sizes.mean() < 680


def test_training_with_sides_in_proportion_follows_the_generator_of_the_image_alone(image, target):
    transform = TrainTransform(**{**OFFICIAL, "scales": (32, 48), "resize_before_crop": (40,), "crop_range": (20, 30)})
    one, two, other = (transform(image, target, rngs(seed, window)) for seed, window in ((1, 0), (1, 9), (2, 0)))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1]["boxes"], two[1]["boxes"])
    assert one[0].shape != other[0].shape or not torch.equal(one[0], other[0])


@pytest.mark.parametrize("square", [False, True])
def test_a_box_still_frames_its_object_after_training_augmentation(square):
    """A white rectangle on black: its box must contain all white and no black, to a pixel of interpolation."""
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = 255
    target = {"boxes": torch.tensor([[30.0, 20.0, 60.0, 40.0]]), "labels": torch.tensor([1])}
    sizes = dict(scales=(64, 96), max_size=160, resize_before_crop=(50, 70), crop_range=(40, 60))
    transform = TrainTransform(flip=0.5, crop=0.5, square=square, **sizes)
    for seed in range(40):
        image, found = transform(Image.fromarray(pixels), target, rngs(seed, seed))
        rows, columns = torch.where(image[0] > 123)
        height, width = found["size"].tolist()
        cx, cy, w, h = (found["boxes"][0] * torch.tensor([width, height, width, height])).tolist()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], seen, atol=2), seed


def test_an_image_smaller_than_the_crop_range_and_without_boxes_passes():
    transform = TrainTransform(**{**OFFICIAL, "crop": 1.0, "resize_before_crop": (100,)})
    image, target = transform(*blank(10, 300), rngs(0))
    assert image.shape[1:] == tuple(target["size"].tolist())
    assert target["boxes"].shape == (0, 4)


def test_transforms_can_be_sent_to_a_worker():
    image, target = blank(20, 10, [[1, 2, 3, 4]])
    for transform in (TrainTransform(**OFFICIAL), TrainTransform(**SQUARE), EvalTransform(32, 64)):
        sent = pickle.loads(pickle.dumps(transform))
        assert torch.equal(sent(image, target, rngs(0))[0], transform(image, target, rngs(0))[0])


def test_a_stretch_moves_boxes_by_both_ratios():
    """80 x 40 to 64 x 64: 0.8 across, 1.6 down."""
    image, target = resize_to_square(*blank(80, 40, [[10, 5, 40, 30]]), 64)
    assert image.size == (64, 64)
    assert torch.allclose(target["boxes"], torch.tensor([[8.0, 8, 32, 48]]))
    pixels, target = to_tensors(image, target)
    assert pixels.shape == (3, 64, 64)
    assert torch.allclose(target["boxes"], torch.tensor([[20 / 64, 28 / 64, 24 / 64, 40 / 64]]))


def test_a_flip_a_square_crop_and_a_resize_by_hand_computation():
    """Flipped in 80 columns: [40, 5, 70, 30]. Cut at (left 50, top 10), side 20: [0, 0, 20, 20]; two more boxes."""
    flipped = flip_horizontally(*blank(80, 40, [[10, 5, 40, 30], [12, 15, 20, 40], [60, 0, 80, 40]]))
    assert flipped[1]["boxes"].tolist() == [[40, 5, 70, 30], [60, 15, 68, 40], [0, 0, 20, 40]]
    _, target = resize_to_square(*crop_to(*flipped, top=10, left=50, height=20, width=20), 50)
    assert target["boxes"].tolist() == [[0, 0, 50, 50], [25, 12.5, 45, 50]]
    assert target["labels"].tolist() == [0, 1]


def test_a_flip_and_a_forced_crop_in_the_square_pipeline_by_hand_computation():
    """40 x 40, flipped: [4, 8, 30, 20]; made 80 and cut whole: [8, 16, 60, 40] of 80."""
    sizes = dict(scales=(32,), max_size=32, resize_before_crop=(80,), crop_range=(80, 90))
    transform = TrainTransform(flip=1.0, crop=1.0, square=True, **sizes)
    image, target = transform(*blank(40, 40, [[10, 8, 36, 20]]), rngs(0))
    assert image.shape == (3, 32, 32)
    assert torch.allclose(target["boxes"], torch.tensor([[34 / 80, 28 / 80, 52 / 80, 24 / 80]]))


@given(SIDE, SIDE, SEED, SEED)
@example(1, 200, 0, 0)
def test_every_image_becomes_the_square_that_its_window_draws(width, height, seed, window):
    """Whatever its shape and whatever its own generator decides."""
    transform = TrainTransform(**{**SQUARE, "resize_before_crop": (24, 30)})
    _, wanted = transform(*blank(64, 64), rngs(0, window))
    image, target = transform(*blank(width, height, [[0, 0, width, height]]), rngs(seed, window))
    assert image.shape[1:] == tuple(target["size"].tolist()) == tuple(wanted["size"].tolist())
    assert image.shape[1] == image.shape[2]
    assert image.shape[1] in SQUARE["scales"]


def test_windows_draw_every_square():
    transform = TrainTransform(**SQUARE)
    sides = {transform(*blank(40, 40), rngs(0, window))[0].shape[1] for window in range(60)}
    assert sides == set(SQUARE["scales"])


@given(SEED, SEED)
def test_a_square_image_keeps_its_proportions_cropped_or_not(seed, window):
    """The crop takes at least 60 % of each side, so the box in the middle is always whole."""
    transform = TrainTransform(**{**SQUARE, "resize_before_crop": (100,), "crop_range": (60, 100)})
    _, target = transform(*blank(100, 100, [[45, 45, 55, 55]]), rngs(seed, window))
    ((_, _, width, height),) = target["boxes"].tolist()
    assert width == pytest.approx(height, abs=1e-6)
    assert 0.1 - 1e-6 <= width <= 10 / 60 + 1e-6


@given(SEED)
def test_a_crop_of_a_long_image_keeps_its_proportions_too(seed):
    """160 x 100: a box of 10 x 10 at the centre is square after a crop, though not after a stretch."""
    transform = TrainTransform(**{**SQUARE, "crop": 1.0, "resize_before_crop": (100,), "crop_range": (100, 100)})
    _, target = transform(*blank(160, 100, [[75, 45, 85, 55]]), rngs(seed))
    assert target["boxes"][:, 2:].tolist() == [[pytest.approx(0.1), pytest.approx(0.1)]]


def test_a_square_image_without_crop_is_resized_as_ever(golden):
    image = Image.fromarray(golden["pixels"]).crop((0, 0, 40, 40))
    target = blank(40, 40, [[3, 4, 30, 20]])[1]
    for size in (32, 40, 64):
        ours, official = resize_to_square(image, target, size), resize(image, target, size, 1333)
        assert np.array_equal(np.asarray(ours[0]), np.asarray(official[0]))
        assert torch.equal(ours[1]["boxes"], official[1]["boxes"])


@given(st.integers(1, 900), st.integers(1, 900), SEED)
def test_a_square_crop_lies_inside_the_image_and_in_the_range_where_the_smaller_side_allows(width, height, seed):
    top, left, crop_height, crop_width = draw_square_crop(width, height, (384, 600), np.random.default_rng(seed))
    assert crop_height == crop_width
    assert 0 <= left <= left + crop_width <= width
    assert 0 <= top <= top + crop_height <= height
    assert min(384, width, height) <= crop_width <= min(600, width, height)


def test_square_crops_reach_both_ends_of_their_range_and_of_the_image():
    drawn = np.array([draw_square_crop(9, 6, (3, 5), np.random.default_rng(i)) for i in range(300)])
    top, left, side, _ = drawn.T
    assert set(side) == {3, 4, 5}
    assert min(top) == min(left) == 0
    assert (max(top + side), max(left + side)) == (6, 9)
