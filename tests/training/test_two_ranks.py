"""What two ranks say to each other in a step. That they train as one is in tests/training/test_layouts.py."""

import json

import pytest
import torch

from tests.helpers.networks import tiny_dino
from tests.helpers.ranks.start import launch

FORWARD, REDUCE = "DistributedDataParallel.forward", "c10d::allreduce_"
SETTLES = "c10d::broadcast_"  # once in a run, in the second window: DDP settles what it sends together


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What tests/helpers/ranks/two.py has written, by rank."""
    folder = tmp_path_factory.mktemp("two_ranks")
    launch("two.py", 2, folder)
    return [
        {
            **json.loads((folder / f"rank{rank}.json").read_text()),
            "dropped": torch.load(folder / f"rank{rank}.pt", weights_only=True),
        }
        for rank in (0, 1)
    ]


def test_ranks_agree_on_boxes_and_the_wish_of_one_is_granted_by_all(two_ranks):
    boxes = {"num_boxes": 1.5, "most_boxes": 2}
    wanted = [
        {**boxes, "saves": saves, "stops": stops}
        for saves, stops in [(False, False), (True, False), (True, True), (True, True)]
    ]
    assert [rank["plans"] for rank in two_ranks] == [wanted, wanted]


def test_a_step_adds_one_all_reduce_to_those_of_ddp_and_they_come_in_its_last_batch(two_ranks):
    for rank in two_ranks:
        said = rank["conversation"]
        gradients = [REDUCE]  # the toy's weights fit into one message
        quiet = [REDUCE, FORWARD, FORWARD, FORWARD, *gradients]
        assert [said[i] for i in (0, 2, 3, 5)] == [quiet] * 4
        assert said[4] == [*quiet, REDUCE, REDUCE, REDUCE]  # a row of the log: losses, counts, losses step by step
        assert [name for name in said[1] if name != SETTLES] == quiet


def test_a_loss_that_is_not_finite_on_one_rank_is_a_step_of_neither(two_ranks):
    ours, theirs = (rank["bad luck"] for rank in two_ranks)
    assert [step["weights"] for step in ours] == [step["weights"] for step in theirs]
    start, *after = [step["weights"] for step in ours]
    assert after[0] == after[1] == after[2]
    assert len({start, after[0], after[3]}) == 3
    for told, is_finite in (ours, [True, True, False, True]), (theirs, [True, False, True, True]):
        assert [step["is_taken"] for step in told[1:]] == [True, False, False, True]
        assert [step["is_finite"] for step in told[1:]] == is_finite
        assert not any(step["has_gradients"] for step in told[1:])


def test_leaving_out_a_step_takes_no_words(two_ranks):
    for rank in two_ranks:
        said = [[name for name in step["said"] if name != SETTLES] for step in rank["bad luck"][1:]]
        assert said == [[REDUCE, FORWARD, FORWARD, REDUCE]] * 4


def test_dropout_does_not_depend_on_the_rank(two_ranks):
    _, wanted = tiny_dino.run_window(tiny_dino.cut((2, 0, 1, 3), 2), "dropout=0.1")
    for rank in two_ranks:
        tiny_dino.check_gradients(rank["dropped"], wanted)


@pytest.mark.slow
def test_set_up_may_take_one_rank_longer_than_a_collective_waits():
    launch("patient.py", 2, timeout=60)
