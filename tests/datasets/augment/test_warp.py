import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from datasets.augment.warp import rotate_and_scale, rotate_boxes

ANGLE, FACTOR = st.floats(-45, 45), st.floats(0.5, 1.5)


def target(*boxes):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.arange(len(boxes))}


def painted(size, box):
    """A white ellipse that fills a box."""
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).ellipse([box[0], box[1], box[2] - 1, box[3] - 1], fill=(255, 255, 255))
    return image


def extent(image):
    """x1, y1, x2, y2 of what is bright."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(deadline=None, max_examples=60)
@given(ANGLE, FACTOR, st.integers(60, 110), st.integers(50, 90), st.integers(20, 60), st.integers(20, 60))
def test_a_box_frames_what_filled_it_tightly_whatever_the_turn(degrees, factor, x, y, width, height):
    box = [x, y, x + width, y + height]
    image, found = rotate_and_scale(painted((240, 200), box), target(box), degrees, factor)
    assert image.size == (240, 200)
    wanted = np.clip(extent(image), 0, [240, 200, 240, 200])
    assert np.allclose(found["boxes"][0].numpy(), wanted, atol=2.0)


def test_no_turn_and_no_scale_change_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image, found = rotate_and_scale(Image.fromarray(pixels), target([3, 4, 20, 30]), 0.0, 1.0)
    assert np.array_equal(np.asarray(image), pixels)
    assert torch.allclose(found["boxes"], torch.tensor([[3.0, 4, 20, 30]]))


def test_a_quarter_turn_is_counter_clockwise_and_exact():
    """In a square of 100 the top right corner goes to the top left."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    image, found = rotate_and_scale(Image.fromarray(pixels), target([70, 10, 90, 40]), 90.0, 1.0)
    assert np.abs(np.asarray(image).astype(int) - np.rot90(pixels)).max() <= 1  # cos(90 degrees) is 6e-17, not 0
    assert torch.allclose(found["boxes"], torch.tensor([[10.0, 10, 40, 30]]), atol=1e-4)


def test_scaling_by_hand_computation():
    _, found = rotate_and_scale(Image.new("RGB", (100, 60)), target([40, 20, 60, 40], [0, 0, 10, 10]), 0.0, 1.5)
    assert torch.allclose(found["boxes"], torch.tensor([[35.0, 15, 65, 45]]))
    assert found["labels"].tolist() == [0]  # the corner has left the image


@given(ANGLE)
def test_a_circle_keeps_its_size_at_every_angle(degrees):
    (box,) = rotate_boxes(torch.tensor([[20.0, 30, 40, 50]]), degrees, 1.0, (30.0, 40.0))
    assert box.tolist() == pytest.approx([20, 30, 40, 50], abs=1e-3)


def test_no_box_stays_no_box():
    assert rotate_and_scale(Image.new("RGB", (9, 7)), target(), 10.0, 1.1)[1]["boxes"].shape == (0, 4)
