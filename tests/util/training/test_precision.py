import pytest
import torch
from torch import nn

from util.training.precision import Precision


def stepped(precision, gradient, max_norm=1.0):
    """A weight of one after an SGD step of rate one along `gradient`."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.scale((weight * gradient).sum()).backward()
    norm = precision.unscale_and_clip(optimizer, [weight], max_norm)
    precision.step(optimizer)
    return weight.item(), norm.item()


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_pass_runs_in_the_precision_asked_for(amp, dtype):
    with Precision(amp, "cpu").autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_off_leaves_float64_alone():
    with Precision("off", "cpu").autocast():
        assert nn.Linear(2, 2).double()(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_gradients_are_clipped_at_their_true_size(amp):
    weight, norm = stepped(Precision(amp, "cpu"), 4.0, max_norm=0.5)
    assert norm == pytest.approx(4.0)
    assert weight == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_an_infinite_norm_does_not_clip(amp):
    weight, norm = stepped(Precision(amp, "cpu"), 4.0, max_norm=float("inf"))
    assert (weight, norm) == pytest.approx((-3.0, 4.0))


def test_only_fp16_scales_and_has_a_state():
    for amp in ("off", "bf16"):
        precision = Precision(amp, "cpu")
        assert precision.scale(torch.tensor(2.0)) == 2.0
        assert precision.state_dict() == {}
        assert not precision.skips_overflow
        precision.load_state_dict({})
    assert Precision("fp16", "cpu").scale(torch.tensor(2.0)) > 2.0


def test_fp16_skips_an_overflow_lowers_its_scale_and_remembers_it():
    precision = Precision("fp16", "cpu")
    before = precision.state_dict()["scale"]
    weight, norm = stepped(precision, float("inf"))
    assert weight == 1.0
    assert not torch.isfinite(torch.tensor(norm))
    assert precision.state_dict()["scale"] < before
    again = Precision("fp16", "cpu")
    again.load_state_dict(precision.state_dict())
    assert again.state_dict() == precision.state_dict()


def test_a_run_without_fp16_can_go_on_with_it():
    precision = Precision("fp16", "cpu")
    start = precision.state_dict()
    precision.load_state_dict(Precision("off", "cpu").state_dict())
    assert precision.state_dict() == start
