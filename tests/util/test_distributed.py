"""A single rank, and two of them. What two ranks do to a step of training is in tests/test_engine.py."""

import pytest
import torch

from util import distributed
from util.distributed import WindowCounts, count_window, gather_objects, ranks, sum_over_ranks, together, wait_for_all
from util.errors import ToldElsewhere, UserError

CPU = torch.device("cpu")


def pretend(monkeypatch, rank, num_boxes, most_boxes):
    """Let the all-reduce add what the other ranks would bring."""
    world = len(num_boxes)

    def all_reduce(counts):
        assert counts[0] == num_boxes[rank]
        counts += torch.tensor([sum(num_boxes), *most_boxes]) - counts

    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: world)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    return count_window(num_boxes[rank], most_boxes[rank], CPU)


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "wanted"),
    [(0, 0, WindowCounts(1.0, 0)), (1, 1, WindowCounts(1.0, 1)), (7, 3, WindowCounts(7.0, 3))],
)
def test_a_single_rank_counts_its_own(num_boxes, most_boxes, wanted):
    assert count_window(num_boxes, most_boxes, CPU) == wanted


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "wanted"),
    [
        ((3, 0), (2, 0), WindowCounts(1.5, 2)),
        ((1, 0), (1, 0), WindowCounts(0.5, 1)),
        ((0, 0), (0, 0), WindowCounts(0.5, 0)),
        ((2, 5, 2), (1, 4, 2), WindowCounts(3.0, 4)),
    ],
)
def test_ranks_agree_on_the_average_count_and_on_the_fullest_image(monkeypatch, num_boxes, most_boxes, wanted):
    for rank in range(len(num_boxes)):
        assert pretend(monkeypatch, rank, num_boxes, most_boxes) == wanted


def test_alone_every_collective_is_the_value_itself():
    value = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(value) is value
    assert gather_objects({"a": 1}) == [{"a": 1}]
    assert wait_for_all() is None
    assert together(lambda: 5) == 5


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with ranks("cpu") as here:
        assert (here.rank, here.world_size, here.local_rank, here.is_main) == (0, 1, 0, True)
        assert not distributed.is_distributed()


def test_more_ranks_than_devices_are_refused_with_a_mend(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "6"), ("LOCAL_RANK", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"rank 5 wants CUDA device 5, but this machine has 2; .*--nproc_per_node"
    with pytest.raises(UserError, match=message), ranks("cuda"):
        pass


def test_a_problem_of_the_only_rank_is_told_by_it():
    def fail():
        raise UserError("no such folder")

    with pytest.raises(UserError, match="no such folder"):
        together(fail)


@pytest.mark.parametrize(
    ("rank", "messages", "raised"),
    [
        (0, ["bad", "bad"], UserError),
        (1, ["bad", "bad"], ToldElsewhere),
        (1, ["bad", "worse"], UserError),
        (0, [None, "bad"], ToldElsewhere),
        (1, [None, "bad"], UserError),
    ],
)
def test_where_one_rank_fails_all_do_and_each_message_is_told_once(monkeypatch, rank, messages, raised):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(distributed, "gather_objects", lambda mine: [*messages[:rank], mine, *messages[rank + 1 :]])

    def prepare():
        if messages[rank]:
            raise UserError(messages[rank])

    with pytest.raises(raised):
        together(prepare)
