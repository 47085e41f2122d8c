"""The size that the network gets of an image."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from util.detection.pixels import NARROW, resized_size

SIDES = st.integers(1, 6000) | st.integers(1, 10**9)


def official_size(width, height, size, max_size=None):
    """As in the official code, but for a strip that would round to nothing."""
    short, long = min(width, height), max(width, height)
    if max_size is not None and long / short * size > max_size:
        size = max(1, round(max_size * short / long))
    if short == size:
        return width, height
    return (size, int(size * height / width)) if width < height else (int(size * width / height), size)


@given(SIDES, SIDES, st.integers(1, 2000), st.none() | st.integers(1, 3000))
def test_sizes_are_the_official_ones_but_for_narrow_images_beyond_the_limit(width, height, size, max_size):
    wanted = official_size(width, height, size, max_size)
    is_narrow = max(width, height) > NARROW * min(width, height)
    assume(not is_narrow or max_size is None or max(wanted) <= max_size)
    assert resized_size(width, height, size, max_size) == wanted


@given(SIDES, SIDES, st.integers(1, 2000), st.integers(1, 3000))
def test_the_limit_holds_but_for_the_rounding_of_the_shorter_side(width, height, size, max_size):
    found = resized_size(width, height, size, max_size)
    is_narrow = max(width, height) > NARROW * min(width, height)
    assert 1 <= min(found) <= max(found) <= max_size + (0 if is_narrow else NARROW)
    assert min(found) == min(*official_size(width, height, size, max_size), max_size)


def test_the_official_rule_exceeds_the_limit_by_rounding():
    assert resized_size(2300, 1000, 800, 1333) == official_size(2300, 1000, 800, 1333) == (1334, 580)


@pytest.mark.parametrize("max_size", [256, 800])
@pytest.mark.parametrize("strip", [(170_000_000, 1), (60_000, 1), (3000, 3)])
def test_a_strip_is_brought_down_to_the_limit(strip, max_size):
    for size in (1, 128, 800):
        assert resized_size(*strip, size, max_size) == (max_size, 1)
        assert resized_size(*reversed(strip), size, max_size) == (1, max_size)
