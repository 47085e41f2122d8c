import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.box_losses import giou_loss, l1_loss
from models.losses.class_losses import Focal
from tests.helpers.golden.model import figures


def gold(name):
    return torch.from_numpy(figures("components")[name])


def brute_force(logits, targets, num_boxes, alpha, gamma):
    """Equation 5 of the focal loss paper, number by number."""
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        p_t, alpha_t = (p, alpha) if y == 1 else (1 - p, 1 - alpha)
        total += -alpha_t * (1 - p_t) ** gamma * math.log(p_t)
    return total / num_boxes


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_the_focal_loss_is_the_official_one_in_value_and_gradient(alpha):
    logits = gold("focal/logits").requires_grad_()
    loss = Focal(alpha, 2.0)(logits, gold("focal/targets")).sum() / gold("focal/num_boxes")
    assert loss.item() == pytest.approx(gold(f"focal/alpha{alpha}/loss_times_num_queries").item(), rel=1e-12)
    loss.backward()
    wanted = gold(f"focal/alpha{alpha}/grad_of_returned") * logits.shape[1]
    np.testing.assert_allclose(logits.grad, wanted, atol=1e-14)


def test_the_focal_loss_by_hand():
    # p = 0.5 everywhere: 0.25 * 0.25 * log 2 for the positive, 0.75 * 0.25 * log 2 for the negative
    loss = Focal(0.25, 2.0)(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]])).sum() / 2
    assert loss.item() == pytest.approx((0.25 + 0.75) * 0.25 * math.log(2) / 2, rel=1e-6)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0, 1),
    gamma=st.sampled_from([0.0, 0.3, 1.0, 1.5, 2.0, 5.0]),
    num_boxes=st.floats(1, 50),
)
def test_alpha_and_gamma_act_exactly_as_the_formula_says(seed, alpha, gamma, num_boxes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) * 3
    targets = (torch.rand(2, 3, 4, generator=generator) < 0.3).double()
    wanted = brute_force(logits, targets, num_boxes, alpha, gamma)
    found = Focal(alpha, gamma)(logits, targets).sum().item() / num_boxes
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.999, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_logits_have_finite_losses_and_gradients(gamma, dtype):
    logits = torch.tensor([-1e4, -500.0, -90.0, -20.0, 0.0, 20.0, 90.0, 500.0, 1e4], dtype=dtype)
    for target in (0.0, 1.0):
        z = logits.clone().view(1, -1, 1).requires_grad_()
        loss = Focal(0.75, gamma)(z, torch.full_like(z, target)).sum()
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(z.grad).all()
        # a wrong answer, however sure, is still pushed back
        wrong = z.grad.flatten()[-1 if target == 0 else 0]
        assert wrong == pytest.approx(0.25 if target == 0 else -0.75, rel=1e-3)


def test_box_losses_by_hand():
    found = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.25, 0.25, 0.5, 0.5]])
    truth = torch.tensor([[0.4, 0.5, 0.2, 0.4], [0.25, 0.25, 0.5, 0.5]])
    assert l1_loss(found, truth).item() == pytest.approx(0.1 + 0.2, rel=1e-5)
    # overlap 0.1 x 0.2, union 0.04 + 0.08 - 0.02, hull 0.3 x 0.4
    giou = 0.02 / 0.10 - (0.12 - 0.10) / 0.12
    assert giou_loss(found, truth).item() == pytest.approx(1 - giou, abs=1e-4)


def test_no_boxes_lose_nothing_and_keep_the_graph():
    boxes = torch.rand(3, 4, requires_grad=True)
    for loss in (l1_loss(boxes[:0], torch.zeros(0, 4)), giou_loss(boxes[:0], torch.zeros(0, 4))):
        assert loss.item() == 0.0
        loss.backward()
        assert boxes.grad.abs().sum() == 0
