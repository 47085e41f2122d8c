import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.meters import StepMeter, Sums

CPU = torch.device("cpu")


def meter_of(*steps):
    meter = StepMeter()
    for loss, images in steps:
        meter.add({"loss": torch.tensor(loss), "loss_ce": torch.tensor(2 * loss)}, {"images": images}, CPU)
    return meter


@given(st.lists(st.tuples(st.floats(0, 100, width=32), st.integers(0, 50)), min_size=1, max_size=20))
def test_losses_are_means_over_steps_and_counts_are_sums(steps):
    values = meter_of(*steps).read(world_size=1)
    assert values["loss"] == pytest.approx(sum(loss for loss, _ in steps) / len(steps), rel=1e-5, abs=1e-6)
    assert values["loss_ce"] == pytest.approx(2 * values["loss"], rel=1e-5)
    assert values["images"] == sum(images for _, images in steps)
    assert type(values["images"]) is int


def test_the_mean_is_no_median():
    assert meter_of((0.0, 1), (0.0, 1), (9.0, 1)).read(1)["loss"] == pytest.approx(3.0)


def test_reading_twice_says_the_same():
    meter = meter_of((1.0, 2), (3.0, 4))
    assert meter.read(1) == meter.read(1) == {"loss": 2.0, "loss_ce": 4.0, "images": 6}


def test_an_empty_meter_has_nothing_to_say():
    assert StepMeter().read(1) == {}
    assert Sums().read() == {}


def test_a_meter_keeps_no_graph_and_no_reference_to_the_losses():
    loss = torch.tensor(1.0, requires_grad=True)
    meter = StepMeter()
    meter.add({"loss": loss * 2}, {"images": 1}, CPU)
    assert not meter.losses.total.requires_grad
    value = torch.tensor(1.0)
    sums = Sums()
    sums.add({"a": value})
    value.fill_(5.0)
    assert sums.read() == {"a": 1.0}


def test_the_order_of_names_does_not_matter_but_a_missing_one_does():
    sums = Sums()
    sums.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    sums.add({"b": torch.tensor(20.0), "a": torch.tensor(2.0)})
    assert sums.read() == {"a": 3.0, "b": 30.0}
    with pytest.raises(KeyError):
        sums.add({"a": torch.tensor(1.0)})


def test_half_precision_losses_are_summed_in_float32():
    sums = Sums()
    for _ in range(300):
        sums.add({"a": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert sums.read() == {"a": 300.0}
