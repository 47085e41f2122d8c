import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.make_submission import class_probabilities

THRESHOLDS = st.floats(0.01, 0.99)


@given(st.lists(st.floats(0, 1), min_size=1), THRESHOLDS)
def test_tuberculosis_is_the_largest_exactly_from_the_threshold_on(scores, threshold):
    score = np.array(scores)
    rows = class_probabilities(score, threshold)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    assert (rows >= 0).all()
    called = rows.argmax(axis=1) == 2
    np.testing.assert_array_equal(called, score >= threshold)


@given(st.lists(st.floats(0, 1), min_size=2), THRESHOLDS)
def test_the_order_of_scores_is_kept(scores, threshold):
    p = class_probabilities(np.sort(scores), threshold)[:, 2]
    assert (np.diff(p) >= 0).all()


def test_by_hand():
    rows = class_probabilities(np.array([-np.inf, 0.2, 0.4, 1.0]), 0.4)
    np.testing.assert_allclose(rows[:, 2], [0, 0.165, 0.34, 1])
    np.testing.assert_allclose(rows[1], [0.4175, 0.4175, 0.165])


@pytest.mark.parametrize(("score", "threshold"), [([0.5], 0.0), ([0.5], 1.0), ([1.5], 0.5)])
def test_what_is_no_probability_is_refused(score, threshold):
    with pytest.raises(ValueError, match="must lie"):
        class_probabilities(np.array(score), threshold)
