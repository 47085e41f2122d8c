import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.augment.grey_values import add_noise, adjust_levels, draw_rectangle, equalize_locally, erase

SEED = st.integers(0, 2**32)
SAME = {"brightness": 1.0, "contrast": 1.0, "gamma": 1.0}


def grey(pixels):
    return Image.fromarray(np.repeat(np.asarray(pixels, dtype=np.uint8)[..., None], 3, axis=2))


def xray(seed=0, size=(64, 48)):
    """Something smooth with grain."""
    rng = np.random.default_rng(seed)
    wave = 100 + 60 * np.sin(np.linspace(0, 5, size[0]))[None, :] * np.cos(np.linspace(0, 3, size[1]))[:, None]
    return grey((wave + rng.normal(0, 5, wave.shape)).clip(0, 255))


def channel(image):
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all(), "a grey image stays grey"
    return pixels[..., 0].astype(int)


def test_levels_that_change_nothing_are_the_image_itself():
    assert np.array_equal(channel(adjust_levels(xray(), **SAME)), channel(xray()))


def test_levels_by_hand_computation():
    """Levels 51 and 153 are 0.2 and 0.6 of 255, their mean is 0.4."""
    image = grey([[51, 153]])
    assert channel(adjust_levels(image, **{**SAME, "brightness": 1.2})).tolist() == [[61, 184]]  # 0.24, 0.72
    assert channel(adjust_levels(image, **{**SAME, "contrast": 0.8})).tolist() == [[61, 143]]  # 0.24, 0.56
    assert channel(adjust_levels(image, **{**SAME, "gamma": 2.0})).tolist() == [[10, 92]]  # 0.04 and 0.36


@given(st.floats(0.2, 1.8), st.floats(0.2, 1.8), st.floats(0.3, 3), SEED)
def test_levels_keep_their_order(brightness, contrast, gamma, seed):
    before = channel(xray(seed)).ravel()
    after = channel(adjust_levels(xray(seed), brightness=brightness, contrast=contrast, gamma=gamma)).ravel()
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


def test_equalizing_a_single_tile_without_a_limit_is_plain_equalization():
    """Every tile holds the levels 10, 10, 20, 90 alike, shares 1/2, 1/4, 1/4: middles of the steps 1/4, 5/8, 7/8."""
    image = grey(np.tile([[10, 10], [20, 90]], (8, 8)))
    wanted = np.tile(np.round(np.array([[0.25, 0.25], [0.625, 0.875]]) * 256 - 0.5), (8, 8))
    assert np.array_equal(channel(equalize_locally(image, clip=256.0)), wanted)


def test_equalizing_with_the_smallest_limit_hardly_changes_a_level():
    assert np.abs(channel(equalize_locally(grey(np.full((40, 40), 200)), 1.0)) - 200).max() <= 1
    assert np.abs(channel(equalize_locally(xray(), 1.0)) - channel(xray())).max() < 40


def test_equalizing_raises_contrast_where_there_was_little_and_more_so_with_a_higher_limit():
    low = grey(channel(xray()) // 8 + 100)
    spreads = [channel(low).std()] + [channel(equalize_locally(low, clip)).std() for clip in (1.5, 3.0, 6.0)]
    assert spreads == sorted(spreads)
    assert spreads[-1] > 1.5 * spreads[0]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 40), SEED)
@settings(deadline=None, max_examples=40)
def test_any_size_can_be_equalized(width, height, clip, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    assert channel(equalize_locally(grey(pixels), clip)).shape == (height, width)


def test_a_colour_image_keeps_the_differences_of_its_channels():
    pixels = np.full((32, 32, 3), (100, 110, 120), dtype=np.uint8)
    pixels[:16] += 20
    after = np.asarray(equalize_locally(Image.fromarray(pixels), 3.0)).astype(int)
    assert (after[..., 1] - after[..., 0] == 10).all()
    assert (after[..., 2] - after[..., 1] == 10).all()


def test_noise_has_its_deviation_and_no_shift():
    noise = channel(add_noise(grey(np.full((300, 300), 128)), 8.0, np.random.default_rng(0))) - 128
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(8.0, rel=0.02)


def test_no_noise_changes_nothing():
    assert np.array_equal(channel(add_noise(xray(), 0.0, np.random.default_rng(0))), channel(xray()))


def test_erasing_fills_the_rectangle_with_the_mean_and_nothing_else():
    before, after = channel(xray()), channel(erase(xray(), (5, 10, 30, 40)))
    is_inside = np.zeros(before.shape, dtype=bool)
    is_inside[10:40, 5:30] = True
    assert (after[is_inside] == round(before.mean())).all()
    assert np.array_equal(after[~is_inside], before[~is_inside])


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.001, 0.5), SEED)
@settings(deadline=None)
def test_a_rectangle_to_erase_touches_no_box_and_lies_inside(width, height, share, seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1).reshape(3, 4) * [width, height, width, height]
    drawn = draw_rectangle(width, height, share, torch.from_numpy(corners), rng)
    if drawn is not None:
        left, top, right, bottom = drawn
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        inside = np.minimum(corners[:, 2:], [right, bottom]) - np.maximum(corners[:, :2], [left, top])
        assert (inside.min(axis=1) <= 0).all()


def test_a_rectangle_is_found_where_there_is_room_and_none_where_there_is_none():
    drawn = [draw_rectangle(100, 100, 0.1, torch.zeros(0, 4), np.random.default_rng(i)) for i in range(100)]
    areas = np.array([(r - x) * (b - y) for x, y, r, b in drawn])
    assert areas.max() <= 0.11 * 10000
    assert areas.mean() == pytest.approx(500, rel=0.2)
    assert draw_rectangle(100, 100, 0.1, torch.tensor([[0.0, 0, 100, 100]]), np.random.default_rng(0)) is None
