"""Means, intervals and pairs, against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.study.results import RunResult
from util.study.statistics import difference, estimate, pairs, share

LEVELS = {
    "a1b1": {"a": "1", "b": "1"},
    "a2b1": {"a": "2", "b": "1"},
    "a1b2": {"a": "1", "b": "2"},
    "a2b2": {"a": "2", "b": "2"},
}


def row(cell, seed=0, ap50=0.5, verdict="healthy", skills=(0.1,)):
    return RunResult(
        suite="s", cell=cell, seed=seed, state="done", exit_code=0, config="c", settings={}, phantom={},
        metrics={} if ap50 is None else {"AP50": ap50}, epochs=[{"class_skill": s} for s in skills],
        verdict=verdict, since=0, causes=[], seconds=1.0,
    )  # fmt: skip


def test_an_interval_by_hand():
    found = estimate([1.0, 2.0, 3.0])  # deviation 1, t of 2 degrees of freedom 4.3027
    assert found.value == 2
    assert (found.low, found.high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))
    assert not found.is_clear


def test_one_value_has_no_interval_and_none_is_nothing():
    assert estimate([0.5]).low is None
    assert not estimate([0.5]).is_clear
    assert estimate([None, float("nan")]) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-1e3, 1e3))
def test_an_interval_holds_its_mean_and_moves_along(values, shift):
    one, other = estimate(values), estimate([v + shift for v in values])
    assert one.low <= one.value + 1e-9
    assert one.value <= one.high + 1e-9
    assert other.low == pytest.approx(one.low + shift, abs=1e-6)


def test_wilsons_interval_by_hand():
    none = share(0, 10)  # upper end z^2 / (n + z^2)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(3.8414588 / 13.8414588)
    half = share(5, 10)
    assert half.low + half.high == pytest.approx(1)
    assert share(0, 0) is None


def test_pairs_share_the_seed_and_all_other_levels():
    rows = [row("a1b1"), row("a2b1"), row("a1b2"), row("a2b2", seed=1), row("a1b1", seed=1)]
    assert pairs(rows, LEVELS, "a", "1", "2") == [(rows[0], rows[1])]
    assert pairs(rows, LEVELS, "b", "1", "2") == [(rows[0], rows[2])]


def test_the_difference_of_pairs_is_second_less_first():
    couples = [(row("a1b1", ap50=0.1), row("a2b1", ap50=0.4)), (row("a1b2", ap50=0.2), row("a2b2", ap50=0.3))]
    found = difference(couples, "AP50")
    assert found.value == pytest.approx(0.2)
    assert found.high == pytest.approx(0.2 + 12.7062 * 0.1, abs=1e-4)  # deviation .1414, over the root of 2
    assert difference([(row("a1b1"), row("a2b1", ap50=None))], "AP50") is None


def test_failing_and_skill_are_figures_too():
    assert row("a1b1", verdict="failing").metric("failing") == 1
    assert row("a1b1", verdict="suspicious").metric("failing") == 0
    assert row("a1b1", skills=(0.1, 0.4)).metric("skill") == 0.4
    assert row("a1b1", skills=()).metric("skill") is None
