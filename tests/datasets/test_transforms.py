import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.transforms import (
    crop_to,
    draw_crop,
    eval_transform,
    flip_horizontally,
    resize,
    resized_size,
    to_network_input,
    train_transform,
)

GOLDEN = Path(__file__).parents[1] / "golden"
RESIZE = json.loads((GOLDEN / "data_resize.json").read_text())["sizes"]
NO_MAX = {"400", "500", "600"}
OFFICIAL = dict(
    flip=0.5,
    crop=0.5,
    scales=tuple(range(480, 801, 32)),
    max_size=1333,
    resize_before_crop=(400, 500, 600),
    crop_range=(384, 600),
)


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
    pixels, found = eval_transform(64, 1333)(image, target, None)
    assert np.array_equal(pixels.numpy(), golden["val64/image"])
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
    assert resized_size(1000, 35, 100, 500) == (514, 18)  # 17.5 to 18


def test_an_image_of_the_right_shorter_side_keeps_its_size():
    assert resized_size(500, 333, 333) == (500, 333)


def test_a_strip_keeps_at_least_one_pixel():
    assert resized_size(4000, 1, 800, 1333) == (4000, 1)


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
    draws = np.array([draw_crop(6, 6, (3, 5), np.random.default_rng(i)) for i in range(300)])
    top, left, height, width = draws.T
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


def test_network_input_is_normalised_with_the_constants_in_the_order_red_green_blue():
    image = Image.new("RGB", (2, 1), (255, 0, 128))
    pixels, target = to_network_input(image, blank(2, 1, [[0, 0, 1, 1]])[1])
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert pixels.shape == (3, 1, 2)
    assert torch.allclose(pixels[:, 0, 0], torch.tensor(expected))
    assert target["boxes"].tolist() == [[0.25, 0.5, 0.5, 1.0]]
    assert target["size"].tolist() == [1, 2]


def test_training_sizes_have_the_official_distribution():
    """Of 3000 official draws on 512 x 512: smallest side 480, largest at most 1250, half square, mean side 654."""
    transform = train_transform(**OFFICIAL)
    image, target = blank(512, 512)
    sizes = np.array([transform(image, target, np.random.default_rng(i))[1]["size"].tolist() for i in range(300)])
    assert sizes.min() == 480
    assert sizes.max() <= 1250
    assert 0.4 < (sizes[:, 0] == sizes[:, 1]).mean() < 0.6
    assert 630 < sizes.mean() < 680


def test_training_follows_the_generator_alone(image, target):
    transform = train_transform(**{**OFFICIAL, "scales": (32, 48), "resize_before_crop": (40,), "crop_range": (20, 30)})
    one, two, other = (transform(image, target, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1]["boxes"], two[1]["boxes"])
    assert one[0].shape != other[0].shape or not torch.equal(one[0], other[0])


def test_a_box_still_frames_its_object_after_training_augmentation():
    """A white rectangle on black: its box must contain all white and no black, to a pixel of interpolation."""
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = 255
    target = {"boxes": torch.tensor([[30.0, 20.0, 60.0, 40.0]]), "labels": torch.tensor([1])}
    transform = train_transform(
        flip=0.5, crop=0.5, scales=(64, 96), max_size=160, resize_before_crop=(50, 70), crop_range=(40, 60)
    )
    for seed in range(40):
        image, found = transform(Image.fromarray(pixels), target, np.random.default_rng(seed))
        rows, columns = torch.where(image[0] > 0)
        height, width = found["size"].tolist()
        cx, cy, w, h = (found["boxes"][0] * torch.tensor([width, height, width, height])).tolist()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], seen, atol=2), seed


def test_an_image_smaller_than_the_crop_range_and_without_boxes_passes():
    transform = train_transform(**{**OFFICIAL, "crop": 1.0, "resize_before_crop": (100,)})
    image, target = transform(*blank(10, 300), np.random.default_rng(0))
    assert image.shape[1:] == tuple(target["size"].tolist())
    assert target["boxes"].shape == (0, 4)


def test_transforms_can_be_sent_to_a_worker():
    image, target = blank(20, 10, [[1, 2, 3, 4]])
    for transform in (train_transform(**OFFICIAL), eval_transform(32, 64)):
        sent = pickle.loads(pickle.dumps(transform))
        assert torch.equal(
            sent(image, target, np.random.default_rng(0))[0], transform(image, target, np.random.default_rng(0))[0]
        )
