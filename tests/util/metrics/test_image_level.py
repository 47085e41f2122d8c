import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, random_tables, truth_of
from util.metrics.image_level import auc, image_scores, partial_auc, roc, threshold_metrics
from util.metrics.matching import as_one_class, deduplicate

BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)
SEEDS = st.integers(0, 2**32 - 1)


def scored(positive, negative):
    score = np.array([*positive, *negative], dtype=float)
    is_positive = np.arange(len(score)) < len(positive)
    return score, is_positive[:, None].astype(float), (~is_positive)[:, None].astype(float)


def brute_force(positive, negative):
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return sum(wins) / len(wins)


SCORES = st.lists(st.sampled_from([-np.inf, 0.0, 0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=8)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(positive, negative):
    assert auc(*scored(positive, negative))[0] == pytest.approx(brute_force(positive, negative), abs=1e-12)


@given(SCORES, SCORES, SEEDS)
def test_auc_of_a_draw_is_that_of_the_repeated_images(positive, negative, seed):
    score, is_positive, is_negative = scored(positive, negative)
    counts = np.random.default_rng(seed).integers(0, 3, len(score))
    value = auc(score, is_positive * counts[:, None], is_negative * counts[:, None])[0]
    repeated = [
        np.repeat(values, n) for values, n in ((positive, counts[: len(positive)]), (negative, counts[len(positive) :]))
    ]
    if all(map(len, repeated)):
        assert value == pytest.approx(brute_force(*repeated), abs=1e-12)
    else:
        assert np.isnan(value)


@given(SCORES, SCORES)
def test_partial_auc_is_the_mean_specificity_over_high_sensitivities(positive, negative):
    score, is_positive, is_negative = scored(positive, negative)
    levels = np.concatenate([[np.inf], np.unique(score)[::-1]])
    x = [np.mean(np.array(negative) >= t) for t in levels]
    y = [np.mean(np.array(positive) >= t) for t in levels]
    grid = np.linspace(0.9, 1, 4001)
    # where the curve is vertical the leftmost point counts, as the lowest false positive rate at that sensitivity
    rates = []
    for level in grid:
        after = next(i for i in range(len(y)) if y[i] >= level - 1e-12)
        share = 1.0 if y[after] == y[after - 1] else (level - y[after - 1]) / (y[after] - y[after - 1])
        rates.append(x[after - 1] + share * (x[after] - x[after - 1]))
    assert partial_auc(score, is_positive, is_negative)[0] == pytest.approx(1 - np.mean(rates), abs=2e-3)


def test_partial_auc_by_hand():
    assert partial_auc(*scored([0.9, 0.8], [0.1, 0.2]))[0] == pytest.approx(1.0)
    assert partial_auc(*scored([0.9, 0.1], [0.5, 0.2]))[0] == pytest.approx(0.0)
    assert partial_auc(*scored([0.5], [0.5]))[0] == pytest.approx(0.05)  # the diagonal: 1 - 0.95


def images_1_to_4():
    """Truth on 1; 2 healthy, 3 sick, 4 healthy without a detection."""
    truth = truth_of([1, 2, 3, 4], [(1, 1, BOX)])
    rows = [(1, 1, BOX, 0.7), (1, 2, FAR, 0.4), (2, 1, BOX, 0.2), (3, 1, BOX, 0.8), (3, 2, BOX, 0.6), (3, 2, FAR, 0.75)]
    return truth, found_of([1, 2, 3, 4], rows), {1: "tb", 2: "healthy", 3: "sick", 4: "healthy"}


def figures(curve, num):
    return {k: float(v[0]) for k, v in curve.values(np.ones((num, 1))).items()}


def test_groups_are_told_apart():
    truth, found, kinds = images_1_to_4()
    images = image_scores(truth, found, kinds)
    values = figures(images, 4)
    assert values["auc"] == pytest.approx(2 / 3)
    assert (values["auc_healthy"], values["auc_sick"]) == (1.0, 0.0)
    assert images.score.tolist() == [0.7, 0.2, 0.8, -np.inf]


def test_every_box_on_an_image_without_tuberculosis_is_a_false_alarm_and_twice_the_same_is_one():
    truth, found, kinds = images_1_to_4()
    values = figures(threshold_metrics(image_scores(truth, found, kinds), deduplicate(as_one_class(found)), 0.5), 4)
    assert values["sensitivity"] == 1.0
    assert values["specificity"] == pytest.approx(2 / 3)
    assert values["false_alarms"] == pytest.approx(2 / 3)  # on 3: one box under two classes, and another
    assert (values["false_alarms_healthy"], values["false_alarms_sick"]) == (0.0, 2.0)


def test_an_image_of_unknown_kind_is_neither():
    truth, found, kinds = images_1_to_4()
    images = image_scores(truth, found, kinds | {3: "unknown"})
    assert figures(images, 4)["auc"] == 1.0
    assert images.is_negative.tolist() == [False, True, False, True]


def test_without_kinds_images_with_a_box_are_positive():
    truth, found, _ = images_1_to_4()
    images = image_scores(truth, found, {})
    assert images.is_positive.tolist() == [True, False, False, False]
    assert set(figures(images, 4)) == {"auc", "partial_auc"}


def test_a_roc_curve_goes_from_nothing_to_everything():
    truth, found, kinds = images_1_to_4()
    x, y, score = roc(image_scores(truth, found, kinds))
    assert (x[0], y[0], x[-1], y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert score.tolist() == [np.inf, 0.8, 0.7, 0.2, -np.inf]
    with pytest.raises(ValueError, match="positive and negative"):
        roc(image_scores(truth.on([1]), found, kinds))


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_images_without_a_detection_score_below_all_others(seed):
    truth, found = random_tables(seed)
    images = image_scores(truth, found, {})
    for image, score in zip(images.ids.tolist(), images.score.tolist(), strict=True):
        assert score == found.score[found.image_id == image].max(initial=-np.inf)
