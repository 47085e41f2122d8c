from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.matcher import HungarianMatcher, assign, one_hot_targets
from models.outputs import Prediction
from tests.helpers.golden.model import figures, targets


def gold(name):
    return torch.from_numpy(figures("components")[name])


def matcher(alpha=0.25, **changes):
    settings = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0, "focal_alpha": alpha, "focal_gamma": 2.0}
    return HungarianMatcher(**{**settings, **changes})


def truth():
    return [targets("A")[0], {**targets("B")[1], "labels": torch.tensor([0, 3])}]


def prediction():
    return Prediction(gold("matcher/logits"), gold("matcher/boxes"))


def pairs(assignment, image):
    rows = assignment.image == image
    return assignment.query[rows].tolist(), assignment.box[rows].tolist()


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_costs_and_assignments_are_the_official_ones(alpha):
    [found] = matcher(alpha)([prediction()], truth())
    for i, t in enumerate(truth()):
        cost = matcher(alpha).cost_matrix(prediction().logits[i], prediction().boxes[i], t["labels"], t["boxes"])
        np.testing.assert_allclose(cost, gold(f"matcher/alpha{alpha}/cost{i}"), atol=1e-10)
        wanted = [gold(f"matcher/alpha{alpha}/{side}{i}").tolist() for side in ("src", "tgt")]
        assert list(pairs(found, i)) == wanted


def test_two_queries_and_three_boxes_leave_one_box_over():
    few = Prediction(prediction().logits[:1, :2], prediction().boxes[:1, :2])
    [found] = matcher()([few], truth()[:1])
    wanted = [gold(f"matcher/two_queries_three_targets/{side}").tolist() for side in ("src", "tgt")]
    assert list(pairs(found, 0)) == wanted


def test_several_predictions_are_matched_each_on_its_own():
    one, flipped = prediction(), Prediction(prediction().logits.flip(1), prediction().boxes.flip(1))
    first, second = matcher()([one, flipped], truth())
    [alone] = matcher()([flipped], truth())
    assert [c.tolist() for c in (second.query, second.box)] == [c.tolist() for c in (alone.query, alone.box)]
    last = one.logits.shape[1] - 1
    for i in range(2):
        assert {(last - q, b) for q, b in zip(*pairs(first, i), strict=True)} == set(
            zip(*pairs(second, i), strict=True)
        )


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (2, 0)])
def test_images_without_boxes_are_matched_to_nothing(counts):
    cut = [{k: v[:n] for k, v in t.items()} for t, n in zip(truth(), counts, strict=True)]
    [found] = matcher()([prediction()], cut)
    assert [len(pairs(found, i)[0]) for i in range(2)] == list(counts)
    assert found.image.dtype == found.query.dtype == found.box.dtype == torch.int64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["logits", "boxes"])
def test_a_prediction_that_is_not_finite_is_matched_so_that_the_loss_tells(part, value):
    bad = {"logits": prediction().logits.clone(), "boxes": prediction().boxes.clone()}
    bad[part][0, 3] = value
    if part == "logits" and value == float("inf"):
        return  # a sure answer, and a finite cost
    [found] = matcher()([Prediction(**bad)], truth())
    assert 3 in pairs(found, 0)[0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 5), boxes=st.integers(0, 4))
def test_the_assignment_is_the_cheapest_of_all(seed, queries, boxes):
    cost = np.random.default_rng(seed).normal(size=(queries, boxes))
    _, query, box = assign([cost])
    total = cost[query, box].sum()
    few, many = sorted((queries, boxes))
    square = cost if queries >= boxes else cost.T
    best = min(
        (sum(square[q, b] for b, q in enumerate(choice)) for choice in permutations(range(many), few)), default=0
    )
    assert total == pytest.approx(best)
    assert len(query) == few


def test_each_weight_weighs_its_term():
    t = truth()[0]
    arguments = (prediction().logits[0], prediction().boxes[0], t["labels"], t["boxes"])
    whole = matcher().cost_matrix(*arguments)
    nothing = {"cost_class": 0.0, "cost_bbox": 0.0, "cost_giou": 0.0}
    parts = {name: matcher(**{**nothing, name: 1.0}).cost_matrix(*arguments) for name in nothing}
    weighted = 2 * parts["cost_class"] + 5 * parts["cost_bbox"] + 2 * parts["cost_giou"]
    np.testing.assert_allclose(weighted, whole, atol=1e-12)
    assert parts["cost_giou"].abs().max() <= 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_class_cost_by_hand(gamma):
    only_class = matcher(0.75, focal_gamma=gamma, cost_class=1.0, cost_bbox=0.0, cost_giou=0.0)
    box = torch.full((1, 4), 0.5, dtype=torch.float64)
    logits = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    cost = only_class.cost_matrix(logits, box, torch.tensor([1]), box).item()
    p = 1 / (1 + np.exp(-2.0))
    wanted = 0.75 * (1 - p) ** gamma * -np.log(p) - 0.25 * p**gamma * -np.log(1 - p)
    assert cost == pytest.approx(wanted, rel=1e-6)


def test_one_hot_targets_mark_the_class_of_each_assigned_query():
    place = torch.tensor([0, 1]), torch.tensor([2, 0])
    target = one_hot_targets(torch.zeros(2, 3, 4), place, torch.tensor([3, 1]))
    assert target.nonzero().tolist() == [[0, 2, 3], [1, 0, 1]]


def test_matching_needs_no_gradient():
    logits = prediction().logits.clone().requires_grad_()
    [found] = matcher()([Prediction(logits, prediction().boxes)], truth())
    assert not found.query.requires_grad
