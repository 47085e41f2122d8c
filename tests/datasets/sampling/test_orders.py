from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampling.orders import (
    PositiveFractionOrder,
    RepeatFactorOrder,
    ShuffledOrder,
    category_factors,
    ceil_share,
    repeat_factors,
    sample_evenly,
)
from datasets.sampling.samplers import WindowBatchSampler
from util.base.errors import DataError
from util.detection.batch import windows

SMALL = st.integers(1, 4)


def half_rare(num_images, num_with_boxes):
    return np.arange(num_images) < num_with_boxes


@st.composite
def shares(draw):
    """An order with a share, and its split."""
    num_images = draw(st.integers(1, 60))
    has_boxes = half_rare(num_images, draw(st.integers(1, num_images)))
    fraction, size = draw(st.floats(0.01, 1.0)), draw(st.integers(1, 12))
    return PositiveFractionOrder(has_boxes, fraction, size, seed=draw(st.integers(0, 9)))


@st.composite
def orders(draw):
    """One of each kind."""
    num_images, seed = draw(st.integers(1, 40)), draw(st.integers(0, 9))
    factors = draw(st.lists(st.floats(1, 5), min_size=num_images, max_size=num_images))
    repeat = RepeatFactorOrder(np.array(factors), "", seed)
    return draw(st.sampled_from([ShuffledOrder(num_images, seed), draw(shares()), repeat]))


def cut(order, batch_size, accumulation, world_size, *, epoch=0, start=0):
    """The samplers of all ranks."""
    ranks = [
        WindowBatchSampler(order, batch_size=batch_size, accumulation=accumulation, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for sampler in ranks:
        sampler.set_epoch(epoch, start)
    return ranks


def keys_by_window(ranks, accumulation):
    """Sorted keys of each window, ghosts aside."""
    parts = [[w.batches for w in windows(sampler, accumulation)] for sampler in ranks]
    return [
        sorted(key for part in together for batch in part for key in batch if not key.is_ghost)
        for together in zip(*parts, strict=True)
    ]


@given(orders(), st.integers(0, 20))
def test_an_epoch_is_a_pure_function_of_its_number_and_always_equally_long(order, epoch):
    shown = order.of_epoch(epoch)
    order.of_epoch(epoch + 1)
    assert shown.tolist() == order.of_epoch(epoch).tolist()
    assert len(shown) == len(order)


@given(orders(), SMALL, SMALL, SMALL, st.integers(0, 3))
def test_windows_hold_the_same_keys_however_they_are_cut(order, batch_size, accumulation, ranks, epoch):
    total = batch_size * accumulation * ranks
    if isinstance(order, PositiveFractionOrder):
        order = replace(order, window_size=total)
    whole = keys_by_window(cut(order, total, 1, 1, epoch=epoch), 1)
    assert keys_by_window(cut(order, batch_size, accumulation, ranks, epoch=epoch), accumulation) == whole
    assert [len(keys) for keys in whole[:-1]] == [total] * (len(whole) - 1)


@given(orders(), SMALL, SMALL, SMALL, st.integers(0, 30))
def test_a_sampler_that_starts_later_yields_the_rest_of_the_epoch(order, batch_size, accumulation, ranks, start):
    whole = cut(order, batch_size, accumulation, ranks, epoch=2)
    for one, rest in zip(whole, cut(order, batch_size, accumulation, ranks, epoch=2, start=start), strict=True):
        assert list(rest) == list(one)[start * accumulation :]


@given(orders(), SMALL, SMALL, SMALL)
def test_a_ghost_is_alone_and_is_the_first_image_of_its_window(order, batch_size, accumulation, ranks):
    samplers = cut(order, batch_size, accumulation, ranks)
    firsts = [w.batches[0][0] for w in windows(samplers[0], accumulation)]
    for sampler in samplers:
        for first, window in zip(firsts, windows(sampler, accumulation), strict=True):
            ghosts = [batch for batch in window.batches if any(key.is_ghost for key in batch)]
            assert all(batch == [first._replace(is_ghost=True)] for batch in ghosts)


@given(orders(), st.integers(0, 3))
def test_an_image_that_comes_again_has_another_key_each_time(order, epoch):
    (sampler,) = cut(order, 2, 1, 1, epoch=epoch)
    times = Counter()
    for keys in sampler:
        for key in keys:
            assert key.repeat == times[key.position]
            times[key.position] += 1


@settings(deadline=None)
@given(shares())
def test_every_window_of_three_epochs_holds_its_share(order):
    for epoch in range(3):
        shown = order.has_boxes[order.of_epoch(epoch)]
        for start in range(0, len(order), order.window_size):
            window = shown[start : start + order.window_size]
            assert window.mean() >= order.fraction - 1e-9


@settings(deadline=None)
@given(shares(), st.integers(0, 3))
def test_images_with_boxes_come_equally_often_and_the_others_at_most_once(order, epoch):
    times = np.bincount(order.of_epoch(epoch), minlength=len(order))
    with_boxes, without = times[order.has_boxes], times[~order.has_boxes]
    assert np.ptp(with_boxes) <= 1
    assert with_boxes.min() >= 1
    assert without.max(initial=0) <= 1


def test_where_there_are_enough_images_with_boxes_every_image_comes_once():
    order = PositiveFractionOrder(half_rare(20, 10), 0.5, 4, seed=0)
    assert sorted(order.of_epoch(3).tolist()) == list(range(20))
    assert order.description.endswith("every image once")


def test_a_share_of_the_real_proportions_by_hand_computation():
    """6600 images, 599 with boxes, windows of 2, one of them with boxes: 3300 places, 3300 = 5 * 599 + 305."""
    order = PositiveFractionOrder(half_rare(6600, 599), 0.5, 2, seed=0)
    times = np.bincount(order.of_epoch(0), minlength=6600)
    assert Counter(times[:599].tolist()) == {6: 305, 5: 294}
    assert Counter(times[599:].tolist()) == {1: 3300, 0: 2701}
    assert order.description == (
        "at least 1 of every 2 images with boxes (positive_fraction 0.5): each of the 599 images with boxes 5 or 6 "
        "times; of the 6001 without 3300 once, the next epoch continues with the others"
    )


def test_the_images_with_boxes_stand_anywhere_in_their_window():
    order = PositiveFractionOrder(half_rare(400, 40), 0.25, 4, seed=0)
    places = order.has_boxes[order.of_epoch(0)].reshape(-1, 4)
    assert (places.sum(axis=0) > 10).all()


def test_a_split_without_boxes_cannot_have_a_share():
    with pytest.raises(DataError, match="none of the 5 training images has one; set positive_fraction=0"):
        PositiveFractionOrder(np.zeros(5, dtype=bool), 0.5, 2, seed=0)


def test_a_share_is_rounded_up_but_not_by_a_rounding_error():
    assert [ceil_share(0.5, n) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert (ceil_share(0.7, 10), ceil_share(0.1, 30), ceil_share(1.0, 7)) == (7, 3, 7)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 5), st.integers(1, 12))
def test_taking_in_turn_repeats_nothing_in_an_epoch_and_is_fair_over_epochs(num, count, seed, epochs):
    count = min(num, count)
    taken = [sample_evenly(num, count, epoch, seed) for epoch in range(epochs)]
    assert all(len(set(t.tolist())) == count for t in taken)
    times = np.bincount(np.concatenate(taken).astype(int), minlength=num)
    assert np.ptp(times) <= 1


@pytest.mark.parametrize("kind", ["share", "repeat"])
def test_pairs_of_images_meet_by_chance(kind):
    """Who shares a window with image 0 is spread over all others: no fixed neighbours."""
    factors = np.where(half_rare(12, 4), 1.5, 1.0)
    order = PositiveFractionOrder(half_rare(12, 4), 0.5, 2, 0) if kind == "share" else RepeatFactorOrder(factors, "", 0)
    partners = Counter()
    for epoch in range(150):
        shown = order.of_epoch(epoch)
        for window in shown[: len(shown) // 2 * 2].reshape(-1, 2).tolist():
            if 0 in window:
                partners[sum(window)] += 1
    others = np.array([partners[i] for i in range(4, 12)])
    assert others.min() > 0.5 * others.mean()


def test_another_epoch_or_seed_is_another_order():
    for make in (
        lambda s: PositiveFractionOrder(half_rare(50, 5), 0.5, 2, s),
        lambda s: RepeatFactorOrder(FACTORS, "", s),
    ):
        first, epoch, seed = make(0).of_epoch(0), make(0).of_epoch(1), make(1).of_epoch(0)
        assert first.tolist() != epoch.tolist() != seed.tolist() != first.tolist()


FACTORS = np.array([1.0] * 30 + [1.25] * 40 + [2.5] * 20 + [3.0] * 10)


def test_images_come_as_often_as_their_factor_says():
    """30 + 50 + 50 + 30 = 160 images per epoch; over 400 epochs the means agree."""
    order = RepeatFactorOrder(FACTORS, "", seed=0)
    assert len(order) == 160
    times = np.array([np.bincount(order.of_epoch(epoch), minlength=100) for epoch in range(400)])
    assert (times >= np.floor(FACTORS)).all()
    assert (times <= np.ceil(FACTORS)).all()
    assert np.allclose(times.mean(axis=0), FACTORS, atol=0.1)


@given(st.lists(st.floats(1, 20), min_size=1, max_size=50), st.integers(0, 5))
def test_an_epoch_is_the_sum_of_the_factors_long_and_shows_every_image(factors, epoch):
    order = RepeatFactorOrder(np.array(factors), "", seed=0)
    assert abs(len(order) - sum(factors)) <= 1
    assert set(order.of_epoch(epoch).tolist()) == set(range(len(factors)))


def test_factors_of_categories_and_images_by_hand_computation():
    """Of 16 images 8 show category 1, one shows category 2 and one both; t = 0.25: f = 9/16 and 2/16, r(2) = sqrt 2."""
    image = np.array([*range(8), 8, 8, 8, 9])
    label = np.array([1] * 8 + [1, 2, 2, 2])
    of_category = category_factors(image, label, 16, 0.25)
    assert of_category == {1: 1.0, 2: pytest.approx(2**0.5)}
    factors = repeat_factors(image, label, 16, of_category)
    assert factors == pytest.approx([1] * 8 + [2**0.5] * 2 + [1] * 6)


def test_a_split_without_boxes_repeats_nothing():
    none = np.zeros(0, dtype=np.int64)
    assert repeat_factors(none, none, 3, category_factors(none, none, 3, 0.5)).tolist() == [1, 1, 1]


def test_what_an_epoch_means_is_told_in_a_line():
    (sampler,) = cut(ShuffledOrder(7, 0), 2, 1, 1)
    assert sampler.description == "7 images in 4 steps of 2, the last of 1; every image once"
    (sampler,) = cut(RepeatFactorOrder(FACTORS, "repeat_threshold 0.1: on average latent 2.29 times", 0), 2, 1, 1)
    assert sampler.description == (
        "160 images in 80 steps of 2; every image once, those of rare categories more often "
        "(repeat_threshold 0.1: on average latent 2.29 times)"
    )
