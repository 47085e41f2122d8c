"""The size that the network gets of an image."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from util.network_input import resized_size

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
def test_sizes_that_keep_to_the_limit_are_the_official_ones(width, height, size, max_size):
    wanted = official_size(width, height, size, max_size)
    assume(max_size is None or max(wanted) <= max_size)
    assert resized_size(width, height, size, max_size) == wanted


@given(SIDES, SIDES, st.integers(1, 2000), st.integers(1, 3000))
def test_no_side_exceeds_the_limit_and_the_shorter_one_is_the_official_one(width, height, size, max_size):
    found = resized_size(width, height, size, max_size)
    assert 1 <= min(found) <= max(found) <= max_size
    assert min(found) == min(*official_size(width, height, size, max_size), max_size)


@pytest.mark.parametrize("max_size", [256, 800])
@pytest.mark.parametrize("strip", [(170_000_000, 1), (60_000, 1), (3000, 3)])
def test_a_strip_is_brought_down_to_the_limit(strip, max_size):
    for size in (1, 128, 800):
        assert resized_size(*strip, size, max_size) == (max_size, 1)
        assert resized_size(*reversed(strip), size, max_size) == (1, max_size)
