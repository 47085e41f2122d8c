import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.runlog.class_skill import FocalSettings, best_constant_loss, class_skill


def loss_of(score, positives, negatives, focal):
    """The focal loss of one class whose score is the same everywhere; `score` may be an array."""
    right = focal.alpha * positives * (1 - score) ** focal.gamma * -np.log(score)
    return right + (1 - focal.alpha) * negatives * score**focal.gamma * -np.log1p(-score)


def focal(alpha=0.25, gamma=2.0, num_queries=300):
    return FocalSettings(alpha, gamma, num_queries)


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.01, 1e4), min_size=1, max_size=4),
    st.floats(1.01, 1e5),
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
)
def test_no_score_on_a_fine_grid_is_better_than_the_best_constant(positives, factor, alpha, gamma):
    slots, setting = factor * max(positives), focal(alpha, gamma)
    grid = 1 / (1 + np.exp(-np.linspace(-30, 30, 20001)))
    expected = sum(loss_of(grid, p, slots - p, setting).min() for p in positives)
    assert best_constant_loss(positives, slots, setting) == pytest.approx(expected, rel=1e-4)


def test_without_focusing_the_best_score_is_the_weighted_share():
    """Cross entropy has a closed form: p = aP / (aP + (1-a)N)."""
    for alpha in (0.25, 0.5, 0.9):
        share = alpha * 3 / (alpha * 3 + (1 - alpha) * 97)
        expected = loss_of(share, 3, 97, focal(alpha, 0.0))
        assert best_constant_loss([3], 100, focal(alpha, 0.0)) == pytest.approx(expected, rel=1e-9)


def test_balanced_slots_have_the_score_one_half():
    assert best_constant_loss([50], 100, focal(0.5)) == pytest.approx(0.5 * 100 * 0.25 * math.log(2), rel=1e-9)


@settings(max_examples=30)
@given(st.floats(0.1, 1e3), st.floats(1.5, 1e3), st.floats(0.05, 0.95), st.floats(1e-3, 1e3))
def test_it_is_in_the_units_of_what_it_is_given(positives, factor, alpha, scale):
    slots = positives * factor
    one = best_constant_loss([positives], slots, focal(alpha))
    assert best_constant_loss([positives * scale], slots * scale, focal(alpha)) == pytest.approx(one * scale, rel=1e-6)


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 50), min_size=2, max_size=5), st.floats(0.05, 0.95))
def test_classes_add_up_and_an_absent_one_costs_nothing(positives, alpha):
    whole = best_constant_loss([*positives, 0.0], 1000, focal(alpha))
    assert whole == pytest.approx(sum(best_constant_loss([p], 1000, focal(alpha)) for p in positives))


@pytest.mark.parametrize(
    ("positives", "slots", "alpha"),
    [([], 100, 0.25), ([0, 0], 100, 0.25), ([5], 100, 0), ([5], 100, 1), ([5], 5, 0.25)],
)
def test_where_a_constant_can_be_perfect_there_is_no_skill(positives, slots, alpha):
    constant = best_constant_loss(positives, slots, focal(alpha))
    assert constant == 0.0
    assert class_skill(0.1, constant) is None


def test_the_skill_is_1_at_best_0_for_the_constant_and_negative_below():
    constant = best_constant_loss([3, 1], 3000, focal())
    assert class_skill(0.0, constant) == 1
    assert class_skill(constant, constant) == 0
    assert class_skill(1.5 * constant, constant) == pytest.approx(-0.5)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "alpha", "expected"),
    [("all_val", 0.25, 0.0888), ("all_val", 0.75, 0.2052), ("TBX11K_val", 0.25, 0.1014), ("TBX11K_val", 0.75, 0.2330)],
)
def test_the_constants_of_the_real_validation_images_are_those_known(shared, name, alpha, expected):
    """Batches of one image, each divided by its own boxes, as the official code does it; 300 queries."""
    truth = json.loads((shared / f"tbx11k/annotations/json/{name}.json").read_text())
    boxes = Counter(box["image_id"] for box in truth["annotations"])
    positives = Counter()
    for box in truth["annotations"]:
        positives[box["category_id"]] += 1 / boxes[box["image_id"]]
    slots = sum(300 / max(1, boxes[image["id"]]) for image in truth["images"])
    value = best_constant_loss(positives.values(), slots, focal(alpha)) / len(truth["images"])
    assert value == pytest.approx(expected, rel=1e-3)
