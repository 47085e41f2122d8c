"""Budget and order, on a clock made of numbers."""

import pytest

from scripts.measure.study_suites import SMOKE
from util.study.planning import Budget, format_duration, pending, seconds_left


def test_a_run_begins_only_if_it_would_end_in_time_by_the_median_so_far():
    budget = Budget(start=1000.0, seconds=600.0)
    durations = [100.0, 200.0, 900.0]  # the median is 200
    assert budget.allows(1400.0, durations)
    assert not budget.allows(1400.1, durations)


def test_the_first_run_may_begin_while_nobody_knows_how_long_it_takes():
    budget = Budget(start=0.0, seconds=60.0)
    assert budget.allows(59.9, [])
    assert not budget.allows(60.0, [])


def test_without_a_budget_there_is_always_time():
    assert Budget(start=0.0).allows(1e9, [1e9])


def test_runs_that_are_done_are_left_out_and_the_others_keep_their_order():
    runs = SMOKE.runs(2)
    left = pending(runs, {("alpha25", 0), ("alpha75", 1)})
    assert [run.name for run in left] == ["alpha75-seed0", "alpha25-seed1"]


def test_what_is_left_is_shared_by_the_workers():
    assert seconds_left(5, 2, [10.0, 30.0, 20.0]) == 60.0  # three rounds of 20
    assert seconds_left(0, 2, [10.0]) == 0
    assert seconds_left(3, 2, []) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "an unknown time"), (40.4, "40 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (3900, "1 h 05 min")],
)
def test_durations_in_words(seconds, words):
    assert format_duration(seconds) == words
