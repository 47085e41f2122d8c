import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.golden.model import table
from util.training.optimizer import Schedule


@pytest.mark.parametrize(
    ("name", "drops"), [("lr_StepLR_11_epochs12", (11,)), ("lr_MultiStep_33_45_epochs50", (33, 45))]
)
def test_rates_by_epoch_are_the_official_ones(name, drops):
    gold = table("components")["lr"][name]
    schedule, steps_per_epoch = Schedule(drops=drops), 7
    for epoch, (lr, lr_backbone) in enumerate(gold):
        for step in (epoch * steps_per_epoch, epoch * steps_per_epoch + steps_per_epoch - 1):
            factor = schedule.factor(step, steps_per_epoch)
            assert 1e-4 * factor == pytest.approx(lr, rel=1e-12)
            assert 1e-5 * factor == pytest.approx(lr_backbone, rel=1e-12)


def test_warm_up_rises_linearly_from_the_first_step_and_ends_at_one():
    factors = [Schedule(warmup_steps=4).factor(s, 100) for s in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_warm_up_and_drops_multiply():
    # two steps an epoch: step 4 is in epoch 2, after the drop at 1 and the one at 2, and half warmed up
    factor = Schedule(warmup_steps=10, drops=(1, 2), drop_factor=0.5).factor(4, 2)
    assert factor == pytest.approx(0.5 * 0.5 * 0.5)


@pytest.mark.parametrize("kind", ["multistep", "cosine", "flat_cosine"])
def test_without_warm_up_the_first_step_is_full(kind):
    assert Schedule(kind, epochs=12, drops=(11,), flat_share=0.5).factor(0, 5) == 1.0


def test_a_cosine_passes_the_points_one_knows_by_heart():
    # 4 epochs of 3 steps, no warm-up: a third of the way is step 4, cos 60 degrees is 1/2
    schedule = Schedule("cosine", epochs=4, final_factor=0.1)
    known = {0: 1.0, 4: 0.1 + 0.9 * 0.75, 6: 0.55, 8: 0.1 + 0.9 * 0.25, 12: 0.1}
    assert {step: schedule.factor(step, 3) for step in known} == pytest.approx(known)


def test_a_cosine_begins_where_the_warm_up_ends():
    schedule = Schedule("cosine", epochs=1, warmup_steps=10)
    assert schedule.factor(9, 30) == 1.0
    assert schedule.factor(10, 30) == 1.0
    assert schedule.factor(20, 30) == pytest.approx(0.5)
    assert schedule.factor(30, 30) == pytest.approx(0.0)


def test_a_flat_cosine_is_full_for_its_share_and_then_falls():
    schedule = Schedule("flat_cosine", epochs=4, flat_share=0.5, final_factor=0.5)
    assert [schedule.factor(step, 10) for step in (0, 7, 19, 20)] == [1.0] * 4
    assert schedule.factor(30, 10) == pytest.approx(0.75)
    assert schedule.factor(40, 10) == pytest.approx(0.5)


@given(
    st.sampled_from(["cosine", "flat_cosine"]),
    st.integers(1, 20),
    st.integers(1, 50),
    st.integers(0, 200),
    st.floats(0, 1),
    st.floats(0, 0.99),
)
def test_after_the_warm_up_a_cosine_never_rises_and_stays_between_its_ends(
    kind, epochs, per_epoch, warmup, final, flat
):
    schedule = Schedule(kind, epochs=epochs, warmup_steps=warmup, final_factor=final, flat_share=flat)
    factors = [schedule.factor(step, per_epoch) for step in range(warmup, warmup + epochs * per_epoch + 2)]
    assert all(after <= before + 1e-12 for before, after in pairwise(factors))
    assert all(final - 1e-12 <= factor <= 1.0 for factor in factors)
    assert all(math.isfinite(factor) for factor in factors)
