import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, random_tables, truth_of
from util.metrics.image_level import image_scores
from util.metrics.operating_point import MARGIN, choose_threshold

BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)
ROWS = [(1, 1, BOX, 0.9), (2, 1, BOX, 0.6), (3, 1, BOX, 0.3), (4, 1, BOX, 0.7), (5, 1, BOX, 0.2), (6, 1, FAR, 0.1)]


def chosen(rule, target=0.9, rows=ROWS, boxes=(1, 2, 3), images=(1, 2, 3, 4, 5, 6)):
    """The score that decides the threshold: the lowest that reaches it, by a margin."""
    truth, found = truth_of(images, [(i, 1, BOX) for i in boxes]), found_of(images, rows)
    threshold = choose_threshold(truth, found, image_scores(truth, found, {}), rule, target)
    if threshold is None:
        return None
    score = min(score for *_, score in rows if score >= threshold)
    assert threshold == pytest.approx(score - MARGIN, abs=1e-12)
    return score


@pytest.mark.parametrize(
    ("target", "threshold"), [(0.3, 0.9), (1 / 3, 0.9), (0.34, 0.6), (2 / 3, 0.6), (0.7, 0.3), (1.0, 0.3)]
)
def test_sensitivity_is_met_with_the_highest_score_that_does(target, threshold):
    assert chosen("sensitivity", target) == threshold


@pytest.mark.parametrize(("target", "threshold"), [(0.0, 0.9), (1 / 6, 0.3), (1.0, 0.3)])
def test_false_alarms_stay_within_the_target(target, threshold):
    assert chosen("false_alarms", target) == threshold


def test_youden_takes_the_highest_sum():
    assert chosen("youden") == 0.3  # 3/3 found, 1 of 3 called wrongly


def test_what_cannot_be_met_or_has_no_meaning_is_none():
    assert chosen("sensitivity", 1.0, rows=ROWS[:2]) is None  # an image without a detection is never found
    assert chosen("sensitivity", boxes=()) is None
    assert chosen("youden", boxes=()) is None
    assert chosen("youden", boxes=(1, 2, 3, 4, 5, 6)) is None
    assert chosen("youden", rows=[(4, 1, BOX, 0.9)]) is None  # worse than to call nothing
    assert chosen("false_alarms", 1.0, boxes=()) is None
    assert chosen("false_alarms", 0.0, rows=[(4, 1, BOX, 0.9), (1, 1, BOX, 0.8)]) is None


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_no_score_has_a_higher_youden_index(seed):
    truth, found = random_tables(seed, ties=True)
    images = image_scores(truth, found, {})
    threshold = choose_threshold(truth, found, images, "youden", 0.0)
    if not images.has_both:
        assert threshold is None
        return

    def index(t):
        called = images.score >= t
        return called[images.is_positive].mean() - called[images.is_negative].mean()

    best = max(map(index, np.unique(found.score)), default=0.0)
    if best > 0:
        assert index(threshold) == pytest.approx(best)
    else:
        assert threshold is None


def test_of_equal_sums_the_highest_threshold_is_taken():
    """.3 - 0 and .4 - .1, which differ in the last digit as floats."""
    images, boxes = tuple(range(1, 21)), tuple(range(1, 11))
    rows = [(i, 1, BOX, 0.9) for i in (1, 2, 3)] + [(4, 1, BOX, 0.8), (11, 1, BOX, 0.8)]
    assert chosen("youden", rows=rows, boxes=boxes, images=images) == 0.9


def test_the_threshold_lies_between_scores_that_nearly_agree():
    """Rounding differs between numbers of threads; half of the gap is left on either side."""
    truth, found = truth_of((1, 2), [(1, 1, BOX)]), found_of((1, 2), [(1, 1, BOX, 0.5), (2, 1, BOX, 0.5 - 2e-7)])
    threshold = choose_threshold(truth, found, image_scores(truth, found, {}), "youden", 0.0)
    assert threshold == pytest.approx(0.5 - 1e-7, abs=1e-12)


def test_no_threshold_is_negative():
    truth, found = truth_of((1,), [(1, 1, BOX)]), found_of((1,), [(1, 1, BOX, 0.0)])
    assert choose_threshold(truth, found, image_scores(truth, found, {}), "sensitivity", 0.9) == 0.0
