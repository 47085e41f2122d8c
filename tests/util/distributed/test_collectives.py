"""Collectives of a single rank and of simulated ranks. Real ranks: test_two_ranks.py, test_layouts.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.base.errors import ReportedByOtherRank, UserError
from util.distributed import collectives
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
    """The plan of each rank: one pass records its contribution, a second one returns the sum of all."""
    contributions = []

    def record(values):
        contributions.append(values.clone())

    def return_sum(values):
        values.copy_(torch.stack(contributions).sum(dim=0))

    def plan(rank, all_reduce):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collectives, "is_distributed", lambda: True)
            patch.setattr(collectives.dist, "get_world_size", lambda: len(num_boxes))
            patch.setattr(collectives.dist, "get_rank", lambda: rank)
            patch.setattr(collectives.dist, "all_reduce", all_reduce)
            return plan_window(num_boxes[rank], most_boxes[rank], CPU, requests[rank])

    for rank in range(len(num_boxes)):
        plan(rank, record)
    assert len(contributions) == len(num_boxes)  # one all-reduce each
    return [plan(rank, return_sum) for rank in range(len(num_boxes))]


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "expected"),
    [(0, 0, WindowPlan(1.0, 0)), (1, 1, WindowPlan(1.0, 1)), (7, 3, WindowPlan(7.0, 3))],
)
def test_a_single_rank_counts_its_own(num_boxes, most_boxes, expected):
    assert plan_window(num_boxes, most_boxes, CPU) == expected


@pytest.mark.parametrize(
    ("num_boxes", "most_boxes", "expected"),
    [
        ((3, 0), (2, 0), WindowPlan(1.5, 2)),
        ((1, 0), (1, 0), WindowPlan(0.5, 1)),
        ((0, 0), (0, 0), WindowPlan(0.5, 0)),
        ((2, 5, 2), (1, 4, 2), WindowPlan(3.0, 4)),
        ((0, 0, 0, 0), (0, 0, 0, 0), WindowPlan(0.25, 0)),
    ],
)
def test_ranks_agree_on_the_average_count_and_on_the_fullest_image(num_boxes, most_boxes, expected):
    world = len(num_boxes)
    assert plans(num_boxes, most_boxes, [NOTHING] * world) == [expected] * world


REQUESTS = st.builds(StepRequests, save=st.booleans(), stop=st.booleans())


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20), REQUESTS), min_size=1, max_size=5))
def test_what_one_rank_requests_all_do_and_who_stops_saves(contributed):
    num_boxes, most_boxes, requests = zip(*contributed, strict=True)
    stops = any(request.stop for request in requests)
    saves = stops or any(request.save for request in requests)
    expected = WindowPlan(max(1, sum(num_boxes)) / len(contributed), max(most_boxes), saves, stops)
    assert plans(num_boxes, most_boxes, requests) == [expected] * len(contributed)


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
        assert not collectives.is_distributed()


def test_more_ranks_than_devices_are_refused_with_a_fix(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "6"), ("LOCAL_RANK", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"rank 5 needs CUDA device 5, but this machine has 2; .*--nproc_per_node"
    with pytest.raises(UserError, match=message), process_group("cuda"):
        pass


def test_a_problem_of_the_only_rank_is_reported_by_it():
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
def test_if_one_rank_fails_all_do_and_each_message_is_reported_once(monkeypatch, rank, messages, raised):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(collectives, "gather_objects", lambda mine: [*messages[:rank], mine, *messages[rank + 1 :]])

    def prepare():
        if messages[rank]:
            raise UserError(messages[rank])

    with pytest.raises(raised):
        run_on_all_ranks(prepare)


@pytest.mark.parametrize(("rank", "error"), [("0", UserError), ("1", ReportedByOtherRank)])
def test_ranks_that_start_from_different_checkpoints_are_refused_by_the_first(monkeypatch, rank, error):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(collectives, "gather_objects", lambda _: [(1, 0, 3), (0, 0, 0)])
    with pytest.raises(error, match=r"^$|logs/x: checkpoints of different steps were found by the ranks.*restart"):
        collectives.require_same((1, 0, 3), "logs/x: checkpoints of different steps")


def test_ranks_with_the_same_value_continue(monkeypatch):
    monkeypatch.setattr(collectives, "gather_objects", lambda mine: [mine, mine])
    collectives.require_same((1, 0, 3), "checkpoints")
