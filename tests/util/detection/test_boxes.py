import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.golden.model import figures
from util.detection.boxes import IOU_EPS, cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh

SIDE = st.floats(0.02, 0.5)
BOX = st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7), SIDE, SIDE)


def tensor(*boxes):
    return torch.tensor(boxes, dtype=torch.float64)


def test_conversions_are_the_official_ones():
    gold = figures("components")
    boxes, corners = torch.from_numpy(gold["boxes/cxcywh"]), torch.from_numpy(gold["boxes/xyxy"])
    torch.testing.assert_close(cxcywh_to_xyxy(boxes), corners)
    torch.testing.assert_close(xyxy_to_cxcywh(corners), torch.from_numpy(gold["boxes/back"]))


def test_giou_is_the_official_one():
    gold = figures("components")
    one, other = torch.from_numpy(gold["giou/b1"]), torch.from_numpy(gold["giou/b2"])
    np.testing.assert_allclose(generalized_iou(one[:, None], other), gold["giou/giou"], atol=1e-6)
    np.testing.assert_allclose(generalized_iou(one, other), np.diag(gold["giou/giou"]), atol=1e-6)


@given(BOX)
def test_a_conversion_there_and_back_changes_nothing(box):
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(tensor(box))), tensor(box))


def test_giou_by_hand():
    # 2 x 2 squares one apart: overlap 1, union 7, hull 9
    one, other = tensor([0.0, 0.0, 2.0, 2.0]), tensor([1.0, 1.0, 3.0, 3.0])
    assert generalized_iou(one, other).item() == pytest.approx(1 / 7 - 2 / 9, abs=1e-6)
    # unit squares with a gap of one: overlap 0, union 2, hull 3
    one, other = tensor([0.0, 0.0, 1.0, 1.0]), tensor([2.0, 0.0, 3.0, 1.0])
    assert generalized_iou(one, other).item() == pytest.approx(-1 / 3, abs=1e-6)


@pytest.mark.parametrize("side", [0.5, 0.01, 0.002, 0.001])
def test_the_official_epsilon_keeps_small_boxes_from_being_equal_to_themselves(side):
    box = tensor([0.0, 0.0, side, side])
    assert generalized_iou(box, box).item() == pytest.approx(side**2 / (side**2 + IOU_EPS), abs=1e-12)


@given(BOX, BOX)
def test_giou_is_symmetric_bounded_and_at_most_iou(one, other):
    a, b = cxcywh_to_xyxy(tensor(one)), cxcywh_to_xyxy(tensor(other))
    forth, back = generalized_iou(a, b).item(), generalized_iou(b, a).item()
    assert forth == pytest.approx(back, abs=1e-12)
    assert -1 <= forth <= 1
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod()
    union = (a[:, 2:] - a[:, :2]).prod() + (b[:, 2:] - b[:, :2]).prod() - overlap
    assert forth <= (overlap / union).item() + 1e-9


def test_boxes_without_area_are_finite_and_so_is_their_gradient():
    point = tensor([0.5, 0.5, 0.5, 0.5]).requires_grad_()
    value = generalized_iou(point, tensor([0.5, 0.5, 0.5, 0.5]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(point.grad).all()


def test_no_boxes_give_no_values():
    assert generalized_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    assert generalized_iou(torch.zeros(5, 1, 4), torch.zeros(0, 4)).shape == (5, 0)
