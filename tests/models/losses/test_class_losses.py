"""Each loss against its paper's formula, written out number by number in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.build import build_class_loss
from models.losses.class_losses import IABCE, MAL, Focal, PositionSupervised, Varifocal
from tests.helpers.networks.tiny_dino import CONFIG
from util.config import load_config


def bce(p, t):
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def focal(p, is_wanted, _, alpha, gamma):
    return alpha * (1 - p) ** gamma * bce(p, 1) if is_wanted else (1 - alpha) * p**gamma * bce(p, 0)


def varifocal(p, _, q, alpha, gamma):
    return -q * (q * math.log(p) + (1 - q) * math.log(1 - p)) if q > 0 else -alpha * p**gamma * math.log(1 - p)


def mal(p, is_wanted, q, gamma):
    if is_wanted:
        return -(q**gamma) * math.log(p) - (1 - q**gamma) * math.log(1 - p)
    return -(p**gamma) * math.log(1 - p)


def ia_bce(p, is_wanted, q, alpha, gamma):
    return bce(p, p**alpha * q ** (1 - alpha)) if is_wanted else p**gamma * bce(p, 0)


def position_supervised(p, is_wanted, q, gamma):
    return abs(q**2 - p) ** gamma * bce(p, q**2) if is_wanted else p**gamma * bce(p, 0)


PAIRS = [
    (Focal, focal, (0.75, 2.0)),
    (Varifocal, varifocal, (0.75, 2.0)),
    (Varifocal, varifocal, (0.2, 1.3)),
    (MAL, mal, (1.5,)),
    (MAL, mal, (1.0,)),
    (IABCE, ia_bce, (0.25, 2.0)),
    (IABCE, ia_bce, (0.6, 1.0)),
    (PositionSupervised, position_supervised, (2.0,)),
    (PositionSupervised, position_supervised, (1.0,)),
]


@pytest.mark.parametrize(("kind", "formula", "settings_"), PAIRS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_every_term_is_that_of_the_paper(kind, formula, settings_, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    wanted = (torch.rand(2, 3, 4, generator=generator) < 0.4).double()
    quality = wanted * torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    found = kind(*settings_)(logits, wanted, quality)
    by_hand = [
        formula(1 / (1 + math.exp(-z)), y == 1, q, *settings_)
        for z, y, q in zip(*(t.flatten().tolist() for t in (logits, wanted, quality)), strict=True)
    ]
    assert found.flatten().tolist() == pytest.approx(by_hand, rel=1e-9, abs=1e-12)


def test_values_that_one_can_work_out():
    half, yes, q = (
        torch.zeros(1, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        torch.tensor([0.25]).double(),
    )
    ln2 = math.log(2)  # BCE(1/2, t), whatever t is
    assert Varifocal(0.75, 2.0)(half, yes, q).item() == pytest.approx(0.25 * ln2)
    assert MAL(0.5)(half, yes, q).item() == pytest.approx(ln2)
    assert IABCE(0.5, 2.0)(half, yes, q).item() == pytest.approx(ln2)
    assert PositionSupervised(1.0)(half, yes, q).item() == pytest.approx((0.5 - 0.0625) * ln2)
    nothing = torch.zeros(1, dtype=torch.float64)
    for made, factor in (
        (Varifocal(0.75, 2.0), 0.75),
        (MAL(2.0), 1),
        (IABCE(0.5, 2.0), 1),
        (PositionSupervised(2.0), 1),
    ):
        assert made(half, nothing, nothing).item() == pytest.approx(factor * 0.25 * ln2)


def test_alpha_weighs_positives_in_the_focal_loss_and_negatives_in_the_varifocal_one():
    logits, quality = torch.zeros(2).double(), torch.tensor([1.0, 0.0]).double()
    low, high = (Focal(a, 2.0)(logits, quality, quality) for a in (0.25, 0.75))
    assert (high[0] > low[0], high[1] < low[1]) == (True, True)
    low, high = (Varifocal(a, 2.0)(logits, quality, quality) for a in (0.25, 0.75))
    assert (high[0] == low[0], high[1] > low[1]) == (True, True)


@pytest.mark.parametrize(("kind", "_", "settings_"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_logits_and_extreme_overlaps_have_finite_losses_and_gradients(kind, _, settings_, dtype):
    values = torch.tensor([-1e4, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4], dtype=dtype)
    for y, q in ((0.0, 0.0), (1.0, 0.0), (1.0, 1e-8), (1.0, 0.5), (1.0, 1.0)):
        logits = values.clone().requires_grad_()
        terms = kind(*settings_)(logits, torch.full_like(values, y), torch.full_like(values, q))
        terms.sum().backward()
        assert torch.isfinite(terms).all()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("kind", "_", "settings_"), PAIRS)
def test_gradients_are_those_of_the_formula(kind, _, settings_):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, generator=generator, dtype=torch.float64).requires_grad_()
    wanted = (torch.arange(12) % 2).double()
    quality = wanted * (0.2 + 0.6 * torch.rand(12, generator=generator, dtype=torch.float64))
    loss = kind(*settings_)
    if kind is IABCE:  # the score in its target is a constant
        target = logits.detach().sigmoid() ** settings_[0] * quality ** (1 - settings_[0])
        wanted_gradient = torch.where(wanted > 0, logits.detach().sigmoid() - target, 0.0)
        [found] = torch.autograd.grad(loss(logits, wanted, quality).sum(), logits)
        torch.testing.assert_close(found[wanted > 0], wanted_gradient[wanted > 0])
    else:
        assert torch.autograd.gradcheck(lambda z: loss(z, wanted, quality), (logits,))


def test_only_the_focal_loss_does_without_the_overlap():
    kinds = {kind: kind.needs_quality for kind, _, _ in PAIRS}
    assert [kind for kind, needs in kinds.items() if not needs] == [Focal]


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["focal_alpha=0.6", "focal_gamma=1"], Focal(0.6, 1.0)),
        (["cls_loss=varifocal", "varifocal_alpha=0.3", "varifocal_gamma=1"], Varifocal(0.3, 1.0)),
        (["cls_loss=mal", "mal_gamma=1.2"], MAL(1.2)),
        (["cls_loss=ia_bce", "ia_bce_alpha=0.5", "ia_bce_gamma=3"], IABCE(0.5, 3.0)),
        (["cls_loss=position_supervised", "position_supervised_gamma=3"], PositionSupervised(3.0)),
    ],
)
def test_every_loss_has_knobs_of_its_own(options, made):
    assert build_class_loss(load_config(CONFIG, options).loss) == made
