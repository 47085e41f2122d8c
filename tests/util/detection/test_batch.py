import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.detection.batch import Batch, Sample, Window, collate, windows

CPU = torch.device("cpu")


def target(num_boxes, image_id=0):
    return {
        "boxes": torch.rand(num_boxes, 4),
        "labels": torch.ones(num_boxes, dtype=torch.long),
        "image_id": torch.tensor(image_id),
    }


def batch(*counts, is_ghost=False):
    images = torch.zeros(len(counts), 3, 8, 8)
    return Batch(images, torch.zeros(len(counts), 8, 8, dtype=torch.bool), [target(n) for n in counts], is_ghost)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_images_are_padded_right_and_bottom_and_the_mask_is_true_there(sizes):
    images = [torch.full((3, h, w), 1.0 + i) for i, (h, w) in enumerate(sizes)]
    made = collate([Sample(image, target(i, i)) for i, image in enumerate(images)])
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    assert made.images.shape == (len(sizes), 3, height, width)
    for i, (h, w) in enumerate(sizes):
        assert torch.equal(made.images[i, :, :h, :w], images[i])
        assert not made.mask[i, :h, :w].any()
        assert made.mask[i].sum() == height * width - h * w
        assert (made.images[i].abs().sum(0) == 0).equal(made.mask[i])
    assert [int(t["image_id"]) for t in made.targets] == list(range(len(sizes)))


def test_a_batch_is_a_ghost_if_all_of_its_samples_are():
    real, ghost = Sample(torch.zeros(3, 4, 4), target(2)), Sample(torch.zeros(3, 4, 4), target(2), is_ghost=True)
    assert collate([ghost, ghost]).is_ghost
    assert not collate([real]).is_ghost


def test_a_batch_knows_its_boxes():
    made = batch(2, 0, 3)
    assert (made.num_boxes, made.num_images, made.most_boxes) == (5, 3, 3)


def test_a_ghost_has_no_boxes_and_no_images():
    made = batch(2, 0, 3, is_ghost=True)
    assert (made.num_boxes, made.num_images, made.most_boxes) == (0, 0, 0)


def test_a_window_adds_its_batches_up():
    window = Window([batch(2, 0), batch(3), batch(7, is_ghost=True)])
    assert (window.num_boxes, window.num_images, window.most_boxes) == (5, 3, 3)
    assert Window([batch(0)]).most_boxes == 0


@given(st.integers(0, 20), st.integers(1, 6))
def test_windows_keep_every_batch_once_in_order_and_only_the_last_is_short(count, size):
    made = [w.batches for w in windows(range(count), size)]
    assert [b for w in made for b in w] == list(range(count))
    assert all(len(w) == size for w in made[:-1])
    assert all(w for w in made)


def test_windows_ask_the_loader_for_no_more_than_the_next_window():
    asked = []

    def loader():
        for i in range(10):
            asked.append(i)
            yield i

    next(windows(loader(), 3))
    assert asked == [0, 1, 2]


def test_a_batch_that_is_sent_to_another_process_is_the_same():
    made = collate([Sample(torch.randint(0, 256, (1, 4, 5), dtype=torch.uint8), target(n, n)) for n in (2, 0)])
    sent = pickle.loads(pickle.dumps(made))
    assert torch.equal(sent.images, made.images)
    assert torch.equal(sent.mask, made.mask)
    for one, other in zip(sent.targets, made.targets, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)
    assert sent.is_ghost is made.is_ghost


@pytest.mark.parametrize("is_ghost", [False, True])
def test_moving_a_batch_keeps_all_of_it(is_ghost):
    made = batch(2, 1, is_ghost=is_ghost)
    moved = made.to(CPU)
    assert moved.is_ghost == is_ghost
    assert torch.equal(moved.images, made.images)
    assert [t.keys() for t in moved.targets] == [t.keys() for t in made.targets]
    assert made.to(torch.device("meta")).targets[0]["boxes"].device.type == "meta"
