import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.distributed.collectives import WindowPlan
from util.training.denominator import Denominator


def plan(num_boxes):
    return WindowPlan(num_boxes, 3, saves=True)


def taken(denominator, num_boxes):
    """What a step is divided by that is then taken."""
    made = denominator(plan(num_boxes))
    denominator.commit(made)
    return made.num_boxes


@given(st.lists(st.floats(0.25, 1e4), min_size=1, max_size=20))
def test_without_momentum_it_is_the_plan_itself_to_the_bit(boxes):
    denominator = Denominator()
    assert [taken(denominator, n) for n in boxes] == boxes
    assert denominator(plan(boxes[0])) == plan(boxes[0])


def test_an_average_by_hand():
    denominator = Denominator(0.75)
    assert [taken(denominator, n) for n in (4.0, 8.0, 1.0)] == [4.0, 5.0, 4.0]


def test_a_step_that_was_not_taken_is_in_no_average():
    denominator = Denominator(0.75)
    taken(denominator, 4.0)
    assert [denominator(plan(40.0)).num_boxes for _ in range(3)] == [13.0] * 3
    assert taken(denominator, 8.0) == 5.0


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_another_number_of_ranks_goes_on_with_the_same_average(boxes, before, after):
    whole = Denominator(0.9, 1)
    wanted = [taken(whole, float(n)) for n in boxes]
    first, then = Denominator(0.9, before), Denominator(0.9, after)
    cut = len(boxes) // 2
    found = [before * taken(first, n / before) for n in boxes[:cut]]
    then.load_state_dict(first.state_dict())
    found += [after * taken(then, n / after) for n in boxes[cut:]]
    assert found == pytest.approx(wanted, rel=1e-12)


def test_an_older_checkpoint_begins_the_average_anew():
    denominator = Denominator(0.9)
    taken(denominator, 40.0)
    denominator.load_state_dict({})
    assert denominator(plan(3.0)).num_boxes == 3.0
