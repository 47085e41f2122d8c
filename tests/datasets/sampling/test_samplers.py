import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sampling.orders import ShuffledOrder
from datasets.sampling.samplers import WindowBatchSampler, eval_indices
from util.detection.batch import SampleKey, windows

SMALL = st.integers(1, 4)


def samplers(num_images, batch_size, accumulation, world_size, seed=0, epoch=0, start_window=0):
    ranks = []
    for rank in range(world_size):
        sampler = WindowBatchSampler(
            ShuffledOrder(num_images, seed),
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
        )
        sampler.set_epoch(epoch, start_window)
        ranks.append(sampler)
    return ranks


def window_sets(ranks, accumulation):
    """The true images of every window, over all ranks, as the loop groups them."""
    per_rank = [[w.batches for w in windows(sampler, accumulation)] for sampler in ranks]
    return [
        {key.position for window in together for batch in window for key in batch if not key.is_ghost}
        for together in zip(*per_rank, strict=True)
    ]


@given(st.integers(0, 200), st.integers(0, 2**31 - 1), st.integers(0, 100))
def test_an_order_is_a_permutation_that_depends_on_its_arguments_alone(num_images, seed, epoch):
    order = ShuffledOrder(num_images, seed).of_epoch(epoch)
    assert sorted(order.tolist()) == list(range(num_images))
    assert order.tolist() == ShuffledOrder(num_images, seed).of_epoch(epoch).tolist()


def test_another_epoch_or_seed_is_another_order():
    first, epoch, seed = (ShuffledOrder(100, s).of_epoch(e).tolist() for s, e in ((0, 0), (0, 1), (1, 0)))
    assert first != epoch != seed != first


@given(st.integers(1, 60), SMALL, SMALL, SMALL, st.integers(0, 5))
def test_every_image_comes_exactly_once_per_epoch_ghosts_aside(num_images, batch_size, accumulation, ranks, epoch):
    keys = [
        key for s in samplers(num_images, batch_size, accumulation, ranks, epoch=epoch) for batch in s for key in batch
    ]
    assert sorted(key.position for key in keys if not key.is_ghost) == list(range(num_images))
    assert {key.epoch for key in keys} == {epoch}


@given(st.integers(1, 60), SMALL, SMALL, SMALL)
def test_all_ranks_keep_step_in_every_window(num_images, batch_size, accumulation, ranks):
    steps = [
        [len(w.batches) for w in windows(s, accumulation)]
        for s in samplers(num_images, batch_size, accumulation, ranks)
    ]
    assert all(s == steps[0] for s in steps)
    assert all(n == accumulation for n in steps[0][:-1])


@given(st.integers(1, 60), SMALL, SMALL, SMALL)
def test_a_ghost_is_alone_in_its_batch_and_shows_an_image_of_its_window(num_images, batch_size, accumulation, ranks):
    cut = samplers(num_images, batch_size, accumulation, ranks)
    sets = window_sets(cut, accumulation)
    for sampler in cut:
        for images, window in zip(sets, windows(sampler, accumulation), strict=True):
            for batch in window.batches:
                assert 1 <= len(batch) <= batch_size
                if any(key.is_ghost for key in batch):
                    assert len(batch) == 1
                    assert batch[0].position in images


@given(st.integers(1, 60), SMALL, SMALL, SMALL, st.integers(0, 20))
def test_every_key_names_the_window_it_stands_in_ghosts_too(num_images, batch_size, accumulation, ranks, start):
    for sampler in samplers(num_images, batch_size, accumulation, ranks, start_window=start):
        for number, window in enumerate(windows(sampler, accumulation), start=start):
            assert {key.window for batch in window.batches for key in batch} == {number}


@pytest.mark.parametrize("num_images", [1, 11, 12, 13, 24, 40])
def test_windows_are_the_same_sets_however_twelve_images_are_cut(num_images):
    cuts = [(b, a, 12 // (b * a)) for b in range(1, 13) for a in range(1, 13) if 12 % (b * a) == 0]
    expected = window_sets(samplers(num_images, 12, 1, 1), 1)
    assert [len(s) for s in expected] == [12] * (num_images // 12) + [num_images % 12] * (num_images % 12 > 0)
    for batch_size, accumulation, ranks in cuts:
        assert window_sets(samplers(num_images, batch_size, accumulation, ranks), accumulation) == expected


def test_two_accumulation_steps_hold_the_micro_batches_of_two_ranks_in_order():
    (one,) = samplers(8, batch_size=2, accumulation=2, world_size=1)
    left, right = samplers(8, batch_size=2, accumulation=1, world_size=2)
    assert list(one) == [batch for pair in zip(left, right, strict=True) for batch in pair]


def test_a_short_last_window_is_filled_by_hand_computation():
    """7 images, 2 ranks, batches of 2, accumulation 2: window 0 is short (7 of 8), and so is one batch."""
    order = ShuffledOrder(7, 0).of_epoch(0).tolist()
    left, right = samplers(7, batch_size=2, accumulation=2, world_size=2)
    assert [[k.position for k in b] for b in left] == [order[0:2], order[4:6]]
    assert [[k.position for k in b] for b in right] == [order[2:4], order[6:7]]
    left, right = samplers(5, batch_size=2, accumulation=2, world_size=2)
    first = ShuffledOrder(5, 0).of_epoch(0).tolist()[0]
    assert list(right)[1] == [SampleKey(epoch=0, window=0, position=first, is_ghost=True)]
    assert len(list(left)) == 2


@given(st.integers(1, 60), SMALL, SMALL, SMALL, st.integers(0, 70))
def test_starting_later_yields_the_rest_of_the_epoch(num_images, batch_size, accumulation, ranks, start):
    whole = samplers(num_images, batch_size, accumulation, ranks)
    rest = samplers(num_images, batch_size, accumulation, ranks, start_window=start)
    for a, b in zip(whole, rest, strict=True):
        assert list(b) == list(a)[start * accumulation :]
        assert len(b) == len(list(b))
        assert a.num_windows == b.num_windows == -(-num_images // (batch_size * accumulation * ranks))


def test_the_next_epoch_begins_at_its_first_window_again():
    (sampler,) = samplers(10, 2, 1, 1, start_window=3)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 5


@given(st.integers(0, 50), st.integers(1, 8))
def test_every_image_is_evaluated_once_over_all_ranks(num_images, ranks):
    parts = [eval_indices(num_images, rank, ranks) for rank in range(ranks)]
    assert sorted(i for part in parts for i in part) == list(range(num_images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
