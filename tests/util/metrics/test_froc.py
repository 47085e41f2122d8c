from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, more, permuted, random_tables, repeated, report, truth_of
from util.metrics.coco.match import FALSE_POSITIVE, TRUE_POSITIVE
from util.metrics.froc import FPPI_RATES, froc_curve
from util.metrics.matching import match_boxes

SEEDS = st.integers(0, 2**32 - 1)
BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)


def froc(truth, found):
    """Sensitivity at each rate and their mean, each image once; nothing where there is no box to find."""
    values = froc_curve(truth, found).values(np.ones((len(truth.images), 1)))
    return {name: value.item() for name, value in values.items() if not np.isnan(value)}


def brute_force(truth, found):
    """Every threshold that occurs, one after the other."""
    outcome = match_boxes(truth, found).outcome
    boxes = int((~truth.is_crowd).sum())
    values = {}
    for rate in FPPI_RATES:
        best = 0.0
        for threshold in found.score.tolist():
            shown = outcome[found.score >= threshold]
            if (shown == FALSE_POSITIVE).sum() / len(truth.images) <= rate:
                best = max(best, (shown == TRUE_POSITIVE).sum() / boxes)
        values[f"froc@{rate:g}"] = best
    return values | {"froc_mean": sum(values.values()) / len(values)}


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_froc_is_what_trying_every_threshold_gives(seed, ties):
    truth, found = random_tables(seed, ties)
    if truth.is_crowd.all():
        assert froc(truth, found) == {}
    else:
        assert froc(truth, found) == pytest.approx(brute_force(truth, found), abs=1e-12)


def test_alarms_are_counted_per_evaluated_image_with_or_without_a_detection():
    truth = truth_of([1, 2, 3, 4], [(1, 1, BOX)])
    found = found_of([1, 2, 3, 4], [(2, 1, FAR, 0.9), (1, 1, BOX, 0.8)])
    values = froc(truth, found)
    assert (values["froc@0.125"], values["froc@0.25"]) == (0.0, 1.0)  # one alarm on four images
    assert froc(truth.on([1, 2]), found)["froc@0.25"] == 0.0  # on two


def test_equal_scores_are_one_threshold():
    truth = truth_of([1, 2], [(1, 1, BOX)])
    found = found_of([1, 2], [(1, 1, BOX, 0.8), (2, 1, FAR, 0.8), (2, 1, BOX, 0.8)])
    values = froc(truth, found)
    assert (values["froc@0.5"], values["froc@1"]) == (0.0, 1.0)


def test_the_mean_is_over_seven_rates():
    truth = truth_of([1], [(1, 1, BOX)])
    found = found_of([1], [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8)])
    assert froc(truth, found)["froc_mean"] == pytest.approx(4 / 7)  # from one alarm per image on


def test_a_box_that_nothing_finds_keeps_sensitivity_below_one():
    truth = truth_of([1], [(1, 1, BOX), (1, 1, FAR)])
    assert set(froc(truth, found_of([1], [(1, 1, BOX, 0.8)])).values()) == {0.5}
    assert set(froc(truth, found_of([1], [])).values()) == {0.0}


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_order_of_rows_and_images_changes_nothing(seed, ties):
    truth, found = random_tables(seed, ties)
    assert froc(*permuted(truth, found, seed)) == froc(truth, found)


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_a_detection_below_all_others_that_finds_nothing_changes_nothing(seed):
    truth, found = random_tables(seed)
    nothing = (truth.images[0], 1, (600, 600, 610, 610), -1.0)
    assert froc(truth, more(found, nothing)) == froc(truth, found)


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_an_image_without_truth_and_detections_never_lowers_sensitivity(seed):
    truth, found = random_tables(seed)
    images = (*truth.images, 99)
    wider, before = froc(replace(truth, images=images), replace(found, images=images)), froc(truth, found)
    assert all(wider[key] >= value for key, value in before.items())


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_a_class_column_written_twice_changes_no_agnostic_froc(seed):
    truth, found = random_tables(seed)
    known = found.label != 3
    twice = more(found, *zip(found.image_id[known].tolist(), [3] * known.sum(), found.xyxy[known], found.score[known]))  # noqa: B905
    before, after = report(truth, found), report(truth, twice)
    for key, value in before.items():
        agnostic = "agnostic/froc" in key or "agnostic_once" in key or "image/" in key
        one_class = "/red/" in key or "/green/" in key
        if agnostic or one_class:
            assert after[key] == value, key


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_a_draw_equals_the_set_in_which_images_are_repeated(seed):
    truth, found = random_tables(seed)
    counts = np.random.default_rng(seed).integers(0, 4, len(truth.images))
    if not counts.any():
        return
    values = froc_curve(truth, found).values(counts[:, None].astype(float))
    expected = froc(*repeated(truth, found, counts))
    for key, value in values.items():
        assert value[0] == pytest.approx(expected[key], abs=1e-12) if expected else np.isnan(value[0])
