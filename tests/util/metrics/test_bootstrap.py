import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, permuted, random_tables, repeated, report, truth_of
from util.metrics.bootstrap import difference, draw_weights, interval, resample
from util.metrics.coco.ap import ap_curve, category_metrics, match_categories, per_category
from util.metrics.report.comparison import compare
from util.metrics.report.protocols import MatchedTables

SEEDS = st.integers(0, 2**32 - 1)
HEADLINES = ("AP", "AP50", "AP75")
BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=40)
def test_with_each_image_once_ap_is_that_of_coco_to_the_last_digit(seed, ties):
    truth, found = random_tables(seed, ties)
    for matches in match_categories(truth, found).values():
        values = ap_curve(matches).values(np.ones((len(truth.images), 2)))
        assert {key: values[key].tolist() for key in HEADLINES} == {
            key: [category_metrics(matches)[key]] * 2 for key in HEADLINES
        }


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_a_draw_equals_the_set_in_which_images_are_repeated(seed):
    truth, found = random_tables(seed)
    counts = np.random.default_rng(seed).integers(0, 4, len(truth.images))
    expected = per_category(*repeated(truth, found, counts))
    for name, matches in match_categories(truth, found).items():
        values = ap_curve(matches).values(counts[:, None].astype(float))
        for key in HEADLINES:
            ours = values[key][0]
            assert ours == pytest.approx(expected[name][key], abs=1e-12) if name in expected else np.isnan(ours)


def test_a_draw_has_as_many_images_and_none_from_elsewhere():
    images = np.array([True, False, True, True])
    weights = draw_weights(images, 50, np.random.default_rng(0))
    assert weights.sum(axis=0).tolist() == [3] * 50
    assert not weights[1].any()
    assert len(np.unique(weights, axis=1).T) > 5


def test_the_seed_decides_and_the_order_of_rows_does_not():
    truth, found = random_tables(1)
    values = report(truth, found, draws=30, seed=1)
    assert report(*permuted(truth, found, 3), draws=30, seed=1) == values
    assert report(truth, found, draws=30, seed=2) != values
    assert {k: v for k, v in values.items() if "/ci95" not in k} == report(truth, found)


def test_every_headline_has_an_interval():
    truth, found = random_tables(1)
    values = report(truth, found, kinds={}, threshold=0.5, draws=20)
    names = {"AP", "AP50", "froc@0.5", "froc_mean", "auc", "partial_auc", "sensitivity", "specificity"}
    headlines = [key for key in values if key.rpartition("/")[2] in names]
    assert len(headlines) > 20
    assert not [key for key in headlines if f"{key}/ci95" not in values]


@pytest.mark.slow
def test_an_interval_of_the_mean_is_that_of_theory():
    """Sensitivity of 400 images of which half are found: 0.5 +- 1.96 * 0.5 / 20."""
    images = tuple(range(400))
    truth = truth_of(images, [(i, 1, BOX) for i in images])
    found = found_of(images, [(i, 1, BOX if i % 2 else FAR, 0.5) for i in images])
    low, high = report(truth, found, draws=2000)["all/agnostic/froc@8/ci95"]
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.006)


def test_an_interval_leaves_out_draws_without_a_figure():
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert interval(np.array([np.nan])) is None


def test_a_run_does_not_differ_from_itself():
    truth, found = random_tables(1)
    gaps = compare(MatchedTables(truth, found, {}), MatchedTables(truth, found, {}), draws=50, seed=0)
    assert {(gap.value, gap.low, gap.high, gap.p) for gap in gaps.values()} == {(0.0, 0.0, 0.0, 1.0)}


def test_a_difference_is_judged_on_the_same_draws():
    """Runs that vary much from image to image, one better by a little on each: paired, that is certain."""
    rng = np.random.default_rng(0)
    a = rng.normal(0.5, 0.1, 1000)
    gap = difference(a, a + rng.normal(0.02, 0.002, 1000), 0.02)
    assert 0.01 < gap.low < gap.high < 0.03
    assert gap.p == pytest.approx(2 / 1001)
    assert difference(a, rng.permutation(a) + 0.02, 0.02).p > 0.5


def test_swapping_the_runs_turns_the_sign():
    truth, found = random_tables(1)
    weaker = found_of(found.images, [(1000, 1, BOX, 0.1)][:0])
    one, two = (MatchedTables(truth, f, {}) for f in (found, weaker))
    there, back = compare(one, two, 50, 0), compare(two, one, 50, 0)
    assert there.keys() == back.keys() != set()
    for key, gap in there.items():
        assert back[key].value == -gap.value
        assert (back[key].low, back[key].high, back[key].p) == pytest.approx((-gap.high, -gap.low, gap.p))


def test_runs_on_other_images_are_not_compared():
    truth, found = random_tables(1)
    fewer = truth.images[:-1]
    with pytest.raises(ValueError, match="on the same images only"):
        compare(MatchedTables(truth, found, {}), MatchedTables(truth.on(fewer), found.on(fewer), {}), 10, 0)


def test_no_images_no_draws():
    truth, found = random_tables(1)
    assert resample(MatchedTables(truth, found, {}).box_metrics, np.zeros(len(truth.images), dtype=bool), 10, 0) == {}
