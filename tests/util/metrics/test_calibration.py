import numpy as np
import pytest

from tests.helpers.metric_tables import found_of, truth_of
from util.metrics.calibration import reliability

BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)


def test_a_bin_holds_the_mean_score_and_the_share_of_hits():
    truth = truth_of([1, 2], [(1, 1, BOX)])
    found = found_of([1, 2], [(1, 1, BOX, 0.76), (1, 1, FAR, 0.72), (2, 1, BOX, 0.1), (2, 1, FAR, 1.0)])
    table = reliability(truth, found)
    assert table.count.tolist() == [0, 1, 0, 0, 0, 0, 0, 2, 0, 1]
    assert table.score[[1, 7, 9]] == pytest.approx([0.1, 0.74, 1.0])
    assert table.share[[1, 7, 9]] == pytest.approx([0.0, 0.5, 0.0])
    assert table.error == pytest.approx((0.1 + 2 * 0.24 + 1.0) / 4)
    assert table.largest_gap == pytest.approx(1.0)
    assert np.isnan(table.share[0])


def test_scores_that_tell_the_truth_have_no_error():
    truth = truth_of([1], [(1, 1, BOX)])
    assert reliability(truth, found_of([1], [(1, 1, BOX, 1.0), (1, 1, FAR, 0.0)])).error == 0.0


@pytest.mark.parametrize("rows", [[], [(1, 1, BOX, 3.0)], [(1, 1, BOX, -0.5)]])
def test_without_probabilities_there_is_no_reliability(rows):
    assert reliability(truth_of([1], [(1, 1, BOX)]), found_of([1], rows)) is None


def test_without_a_box_there_is_no_reliability():
    assert reliability(truth_of([1], []), found_of([1], [(1, 1, BOX, 0.5)])) is None
