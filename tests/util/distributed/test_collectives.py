"""A single rank, and several that are pretended. Real ones: test_two_ranks.py, test_layouts.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.base.errors import ReportedByOtherRank, UserError
from util.distributed import collectives as distributed
from util.distributed.collectives import (
    StepRequests,
    WindowPlan,
    gather_objects,
    plan_window,
    process_group,
    run_on_all_ranks,
    sum_over_ranks,
    wait_for_all,
)

CPU = torch.device("cpu")
NOTHING = StepRequests()


def plans(num_boxes, most_boxes, requests):
    """What each rank takes home: once to hear what it says, once more with the sum of what all say."""
    said = []

    def listen(values):
        said.append(values.clone())

    def answer(values):
        values.copy_(torch.stack(said).sum(dim=0))

    def ask(rank, all_reduce):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "is_distributed", lambda: True)
            patch.setattr(distributed.dist, "get_world_size", lambda: len(num_boxes))
            patch.setattr(distributed.dist, "get_rank", lambda: rank)
            patch.setattr(distributed.dist, "all_reduce", all_reduce)
            return plan_window(num_boxes[rank], most_boxes[rank], CPU, requests[rank])

    for rank in range(len(num_boxes)):
        ask(rank, listen)
    assert len(said) == len(num_boxes)  # one all-reduce each
    return [ask(rank, answer) for rank in range(len(num_boxes))]


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "wanted"),
    [(0, 0, WindowPlan(1.0, 0)), (1, 1, WindowPlan(1.0, 1)), (7, 3, WindowPlan(7.0, 3))],
)
def test_a_single_rank_counts_its_own(num_boxes, most_boxes, wanted):
    assert plan_window(num_boxes, most_boxes, CPU) == wanted


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "wanted"),
    [
        ((3, 0), (2, 0), WindowPlan(1.5, 2)),
        ((1, 0), (1, 0), WindowPlan(0.5, 1)),
        ((0, 0), (0, 0), WindowPlan(0.5, 0)),
        ((2, 5, 2), (1, 4, 2), WindowPlan(3.0, 4)),
        ((0, 0, 0, 0), (0, 0, 0, 0), WindowPlan(0.25, 0)),
    ],
)
def test_ranks_agree_on_the_average_count_and_on_the_fullest_image(num_boxes, most_boxes, wanted):
    world = len(num_boxes)
    assert plans(num_boxes, most_boxes, [NOTHING] * world) == [wanted] * world


REQUESTS = st.builds(StepRequests, save=st.booleans(), stop=st.booleans())


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20), REQUESTS), min_size=1, max_size=5))
def test_what_one_rank_requests_all_do_and_who_stops_saves(saying):
    num_boxes, most_boxes, requests = zip(*saying, strict=True)
    stops = any(request.stop for request in requests)
    saves = stops or any(request.save for request in requests)
    wanted = WindowPlan(max(1, sum(num_boxes)) / len(saying), max(most_boxes), saves, stops)
    assert plans(num_boxes, most_boxes, requests) == [wanted] * len(saying)


@pytest.mark.parametrize(
    ("requested", "saves", "stops"),
    [
        (None, False, False),
        (StepRequests(), False, False),
        (StepRequests(save=True), True, False),
        (StepRequests(stop=True), True, True),
    ],
)
def test_a_single_rank_gets_what_it_requests(requested, saves, stops):
    assert plan_window(2, 1, CPU, requested) == WindowPlan(2.0, 1, saves, stops)


def test_alone_every_collective_is_the_value_itself():
    value = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(value) is value
    assert gather_objects({"a": 1}) == [{"a": 1}]
    assert wait_for_all() is None
    assert run_on_all_ranks(lambda: 5) == 5


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu") as process:
        assert (process.rank, process.world_size, process.local_rank, process.is_main) == (0, 1, 0, True)
        assert not distributed.is_distributed()


def test_more_ranks_than_devices_are_refused_with_a_mend(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "6"), ("LOCAL_RANK", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"rank 5 wants CUDA device 5, but this machine has 2; .*--nproc_per_node"
    with pytest.raises(UserError, match=message), process_group("cuda"):
        pass


def test_a_problem_of_the_only_rank_is_told_by_it():
    def fail():
        raise UserError("no such folder")

    with pytest.raises(UserError, match="no such folder"):
        run_on_all_ranks(fail)


@pytest.mark.parametrize(
    ("rank", "messages", "raised"),
    [
        (0, ["bad", "bad"], UserError),
        (1, ["bad", "bad"], ReportedByOtherRank),
        (1, ["bad", "worse"], UserError),
        (0, [None, "bad"], ReportedByOtherRank),
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
        run_on_all_ranks(prepare)


@pytest.mark.parametrize(("rank", "error"), [("0", UserError), ("1", ReportedByOtherRank)])
def test_ranks_that_start_from_different_checkpoints_are_refused_by_the_first(monkeypatch, rank, error):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(distributed, "gather_objects", lambda _: [(1, 0, 3), (0, 0, 0)])
    with pytest.raises(error, match=r"^$|logs/x: checkpoints of different steps were found by the ranks.*start again"):
        distributed.require_same((1, 0, 3), "logs/x: checkpoints of different steps")


def test_ranks_that_start_alike_go_on(monkeypatch):
    monkeypatch.setattr(distributed, "gather_objects", lambda mine: [mine, mine])
    distributed.require_same((1, 0, 3), "checkpoints")
