import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.denominator import Denominator
from util.distributed import WindowPlan


def plan(num_boxes):
    return WindowPlan(num_boxes, 3, saves=True)


@given(st.lists(st.floats(0.25, 1e4), min_size=1, max_size=20))
def test_without_momentum_it_is_the_plan_itself_to_the_bit(boxes):
    denominator = Denominator()
    assert [denominator(plan(n)) for n in boxes] == [plan(n) for n in boxes]


def test_an_average_by_hand():
    denominator = Denominator(0.75)
    assert [denominator(plan(n)).num_boxes for n in (4.0, 8.0, 1.0)] == [4.0, 5.0, 4.0]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_another_number_of_ranks_goes_on_with_the_same_average(boxes, before, after):
    whole = Denominator(0.9, 1)
    wanted = [whole(plan(float(n))).num_boxes for n in boxes]
    first, then = Denominator(0.9, before), Denominator(0.9, after)
    cut = len(boxes) // 2
    found = [before * first(plan(n / before)).num_boxes for n in boxes[:cut]]
    then.load_state_dict(first.state_dict())
    found += [after * then(plan(n / after)).num_boxes for n in boxes[cut:]]
    assert found == pytest.approx(wanted, rel=1e-12)


def test_an_older_checkpoint_begins_the_average_anew():
    denominator = Denominator(0.9)
    denominator(plan(40.0))
    denominator.load_state_dict({})
    assert denominator(plan(3.0)).num_boxes == 3.0
