import math

import pytest
import torch
from torch import nn

from util.training.ema import WeightAverage


class Toy(nn.Module):
    """A free weight, one weight under three names, and buffers of two types."""

    def __init__(self, value=1.0):
        super().__init__()
        self.free = nn.Linear(1, 1, bias=False)
        shared = nn.Linear(1, 1, bias=False)
        self.heads = nn.ModuleList([shared, shared, shared])
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("unsaved", torch.tensor(7), persistent=False)
        self.set(value)

    def set(self, value):
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


def values(module):
    return {name: tensor.item() for name, tensor in module.state_dict().items()}


def test_a_tied_tensor_is_averaged_once_per_step():
    model = Toy(1.0)
    average = WeightAverage(model, 0.9, 0)
    model.set(2.0)
    average.update(model, 1)
    assert average.module.free.weight.item() == pytest.approx(1.1)
    assert [head.weight.item() for head in average.module.heads] == pytest.approx([1.1] * 3)
    assert average.module.heads[0].weight is average.module.heads[2].weight


def test_many_steps_follow_the_closed_form():
    model = Toy(0.0)
    average = WeightAverage(model, 0.99, 0)
    model.set(1.0)
    for step in range(1, 101):
        average.update(model, step)
    assert average.module.free.weight.item() == pytest.approx(1 - 0.99**100, rel=1e-5)


def test_buffers_are_copied_whatever_their_type():
    model = Toy()
    average = WeightAverage(model, 0.5, 0)
    model.count.fill_(9)
    model.mean.fill_(8.5)
    average.update(model, 1)
    assert average.module.count.item() == 9
    assert average.module.count.dtype == torch.int64
    assert average.module.mean.item() == 8.5


def test_the_decay_warms_up():
    average = WeightAverage(Toy(), 0.9997, 2000)
    assert average.decay_at(1) == pytest.approx(0.9997 * (1 - math.exp(-1 / 2000)))
    assert average.decay_at(2000) == pytest.approx(0.9997 * (1 - 1 / math.e))
    assert average.decay_at(10**6) == pytest.approx(0.9997)
    assert WeightAverage(Toy(), 0.9997, 0).decay_at(1) == 0.9997


def test_with_warm_up_the_first_steps_are_almost_the_model():
    model = Toy(0.0)
    average = WeightAverage(model, 0.9997, 1000)
    model.set(1.0)
    average.update(model, 1)
    assert average.module.free.weight.item() > 0.99


def test_decay_zero_is_the_model_itself():
    model = Toy()
    average = WeightAverage(model, 0.0, 2000)
    average.update(model, 1)
    average.copy_from(model)
    assert average.module is model
    assert not average.is_copy
    assert all(p.requires_grad for p in model.parameters())


def test_the_average_never_trains_and_never_touches_the_model():
    model = Toy(1.0).train()
    average = WeightAverage(model, 0.9, 0)
    before = values(model)
    average.update(model, 1)
    assert values(model) == before
    assert not any(p.requires_grad for p in average.module.parameters())
    assert not average.module.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_copying_forgets_the_past():
    model = Toy(1.0)
    average = WeightAverage(model, 0.999, 0)
    model.set(5.0)
    average.copy_from(model)
    assert values(average.module) == values(model)


def test_an_average_of_equal_weights_stays_exactly_equal():
    model = Toy(0.1)
    average = WeightAverage(model, 0.9997, 50)
    for step in range(1, 50):
        average.update(model, step)
    assert values(average.module) == values(model)
