import json
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from util.base.errors import UserError
from util.base.launcher import ProcessInfo
from util.runlog.meters import StepMeter, Sums, Totals

CPU = torch.device("cpu")
ALONE = ProcessInfo(0, 1, 0)
STEPS = st.lists(st.tuples(st.floats(0, 100, width=32), st.integers(0, 50)), min_size=1, max_size=12)


def meter_of(*steps, keeps_steps=False):
    meter = StepMeter(keeps_steps)
    for loss, images in steps:
        losses = {"loss": torch.tensor(loss), "loss_ce": torch.tensor(2 * loss)}
        meter.add(losses, {"matched": torch.tensor(float(images))}, {"images": images})
    return meter


def restored(states, process=ALONE, *, keeps_steps=False):
    """A restored meter; the states pass through plain values, as in a checkpoint."""
    meter = StepMeter(keeps_steps)
    meter.restore(json.loads(json.dumps(states)), process, CPU)
    return meter


@settings(max_examples=30)
@given(STEPS)
def test_every_value_is_a_sum_over_the_steps(steps):
    totals = meter_of(*steps, keeps_steps=True).read(ALONE, CPU)
    assert totals.steps == len(steps)
    assert totals.losses["loss"] == pytest.approx(sum(loss for loss, _ in steps), rel=1e-5)
    assert totals.losses["loss_ce"] == pytest.approx(2 * totals.losses["loss"], rel=1e-5)
    assert totals.events["matched"] == totals.counts["images"] == sum(images for _, images in steps)
    assert totals.step_losses == tuple(loss for loss, _ in steps)


@settings(max_examples=30)
@given(STEPS, STEPS)
def test_two_parts_add_up_to_the_whole(first, second):
    whole = meter_of(*first, *second, keeps_steps=True).read(ALONE, CPU)
    added = sum((meter_of(*part, keeps_steps=True).read(ALONE, CPU) for part in (first, second)), Totals())
    assert (added.steps, added.counts, added.step_losses) == (whole.steps, whole.counts, whole.step_losses)
    assert added.losses == pytest.approx(whole.losses, rel=1e-5)
    assert added.events == whole.events


@settings(max_examples=30)
@given(STEPS, st.integers(0, 11))
def test_a_restored_meter_reads_like_one_that_was_never_interrupted(steps, cut):
    whole = meter_of(*steps, keeps_steps=True)
    parts = restored([meter_of(*steps[:cut], keeps_steps=True).state_dict()], keeps_steps=True)
    for loss, images in steps[cut:]:
        losses = {"loss": torch.tensor(loss), "loss_ce": torch.tensor(2 * loss)}
        parts.add(losses, {"matched": torch.tensor(float(images))}, {"images": images})
    assert parts.read(ALONE, CPU) == whole.read(ALONE, CPU)
    assert parts.state_dict() == whole.state_dict()


@settings(max_examples=30)
@given(st.lists(STEPS, min_size=1, max_size=4), st.integers(1, 4))
def test_another_number_of_ranks_reads_the_same(parts, ranks):
    """Losses are means over ranks and all else sums, however many ranks there were and are."""
    steps = min(map(len, parts))
    states = [meter_of(*part[:steps], keeps_steps=True).state_dict() for part in parts]
    readings = [
        restored(states, ProcessInfo(rank, ranks, rank), keeps_steps=True).read(ALONE, CPU) for rank in range(ranks)
    ]
    by_step = [mean(part[i][0] for part in parts) for i in range(steps)]
    assert mean(r.losses["loss"] for r in readings) == pytest.approx(sum(by_step), rel=1e-5)
    expected = sum(images for part in parts for _, images in part[:steps])
    assert sum(r.counts["images"] for r in readings) == sum(r.events["matched"] for r in readings) == expected
    assert mean(torch.tensor([r.step_losses for r in readings]).mean(dim=0).tolist()) == pytest.approx(
        mean(by_step), rel=1e-5
    )


def test_the_losses_are_read_as_a_mean_over_ranks(monkeypatch):
    monkeypatch.setattr("util.runlog.meters.sum_over_ranks", lambda values: values * 4)  # four ranks alike
    totals = meter_of((3.0, 2), keeps_steps=True).read(ProcessInfo(0, 4, 0), CPU)
    assert (totals.losses["loss"], totals.step_losses) == (3.0, (3.0,))
    assert totals.events["matched"] == totals.counts["images"] == 8


def test_a_skipped_step_is_not_counted_as_a_step():
    meter = meter_of((1.0, 2), keeps_steps=True)
    meter.add({}, {}, {"images": 0, "skipped": 1})
    totals = meter.read(ALONE, CPU)
    assert (totals.steps, totals.losses["loss"], totals.step_losses) == (1, 1.0, (1.0,))
    assert totals.counts == {"images": 2, "skipped": 1}


def test_reading_twice_gives_the_same():
    meter = meter_of((1.0, 2), (3.0, 4))
    assert meter.read(ALONE, CPU) == meter.read(ALONE, CPU)
    assert meter.read(ALONE, CPU).step_losses == ()  # only on request


def test_an_empty_meter_reads_as_empty():
    assert StepMeter().read(ALONE, CPU) == Totals()
    assert restored([StepMeter().state_dict()]).read(ALONE, CPU) == Totals()
    assert Sums().read() == {}


def test_a_meter_keeps_no_graph_and_no_reference_to_the_losses():
    loss = torch.tensor(1.0, requires_grad=True)
    meter = StepMeter(keeps_steps=True)
    meter.add({"loss": loss * 2}, {}, {"images": 1})
    assert not meter.losses.total.requires_grad
    assert not meter.step_losses[0].requires_grad
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


def test_a_resume_with_other_losses_within_an_epoch_is_refused():
    before, after = Sums(), Sums()
    before.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    after.restore([before.state_dict()], 1.0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"has collected a, b before this start, and now there are a, c"):
        after.add({"a": torch.tensor(1.0), "c": torch.tensor(1.0)})
    after.add({"b": torch.tensor(1.0), "a": torch.tensor(1.0)})
    with pytest.raises(KeyError):
        after.add({"a": torch.tensor(1.0)})


def test_half_precision_losses_are_summed_in_float32():
    sums = Sums()
    for _ in range(300):
        sums.add({"a": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert sums.read() == {"a": 300.0}
