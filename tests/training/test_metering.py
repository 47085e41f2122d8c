"""Metering waits for the device only on steps that log: what the host must know it knows from shapes."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Step
from models.losses.criterion import _shares
from models.losses.events import count_events
from models.losses.matcher import Assignment
from models.outputs import Prediction
from tests.helpers.device_waits import Waits
from util.base.launcher import ProcessInfo
from util.detection.batch import Batch, Window
from util.distributed.collectives import WindowPlan
from util.runlog.class_skill import FocalSettings
from util.runlog.meters import StepMeter
from util.runlog.run_log import RunLog
from util.runlog.training_log import TrainingLog

CPU, DEVICE = torch.device("cpu"), torch.device("meta")
ALONE, FOCAL = ProcessInfo(0, 1, 0), FocalSettings(0.25, 2.0, 12)
NAMES = ("loss", "loss_ce", "loss_bbox")
RATES = {"lr": 1e-4}
COUNTS = ((2, 0), (0, 0), (1, 3))  # boxes of the images of a batch


def targets(counts, device=CPU):
    return [
        {"labels": torch.ones(n, dtype=torch.long).to(device), "boxes": torch.ones(n, 4).to(device)} for n in counts
    ]


def events_of(counts, device=DEVICE):
    """What the criterion counts on a batch, with everything on `device`."""
    number = sum(counts)
    made = Prediction(torch.zeros(len(counts), 12, 4, device=device), torch.ones(len(counts), 12, 4, device=device))
    index = torch.zeros(number, dtype=torch.long, device=device)
    goal = targets(counts, device)
    total, class_sums = torch.ones((), device=device), torch.ones(len(counts), device=device)
    with Waits() as waits:
        events = count_events(made, goal, Assignment(index, index, index), torch.ones_like(index))
        events |= _shares(total, class_sums, goal)
    return events, waits


def losses_on(device):
    return {name: torch.ones((), device=device) for name in NAMES}


def steps(count, device):
    for i in range(count):
        counts = COUNTS[i % len(COUNTS)]
        batch = Batch(torch.zeros(2, 3, 1, 1), torch.zeros(2, 1, 1), targets(counts))
        window = Window([batch, batch])
        events, _ = events_of(counts, device)
        plan = WindowPlan(max(1.0, float(window.num_boxes)), window.most_boxes)
        norm = torch.ones((), device=device)
        yield Step(window, plan, [losses_on(device)] * 2, [events] * 2, norm, norm > 0.1, True)


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(),
        lambda t: bool(t.any()),
        lambda t: float(t.sum()),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: torch.where(t > 0),
        lambda t: t.masked_select(t > 0),
        lambda t: torch.equal(t, t),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.to("cpu"),
        lambda t: torch.tensor([1.0], device=t.device),
        lambda t: torch.ones(3).to(t.device),
        lambda t: t.copy_(torch.ones(3)),
    ],
)
def test_every_way_to_wait_is_counted(wait):
    with Waits() as waits:
        try:
            wait(torch.ones(3, device=DEVICE))
        except (NotImplementedError, RuntimeError):  # there is nothing on this device to wait for
            assert waits.number
    assert waits.number == 1, waits.seen


def test_what_does_not_wait_is_not_counted():
    with Waits() as waits:
        t = torch.ones(3, 4, device=DEVICE)
        index = torch.zeros(2, dtype=torch.long, device=DEVICE)
        t[index, index], t[0], t + 1, t.topk(2), torch.stack([t, t]), t.to(torch.float64), torch.where(t > 0, t, 0)
        torch.ones(3).tolist(), torch.ones(3).sum().to(CPU), torch.ones(3).to(DEVICE, non_blocking=True)
    assert not waits.seen


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_counting_events_never_waits(counts):
    for device in (DEVICE, CPU):
        events, waits = events_of(counts, device)
        assert not waits.seen
        assert {value.device for value in events.values()} == {device}


def test_a_meter_waits_when_it_is_read_and_not_before():
    meter, made = StepMeter(keeps_steps=True), list(steps(3, DEVICE))
    with Waits() as waits:
        for step in made:
            meter.add(step.total, step.counted, {"images": 4})
    assert not waits.seen
    with Waits() as waits:
        assert meter.read(ALONE, DEVICE).steps == 3
    assert waits.seen == {"tolist": 4, "tensor": 1}  # losses, events, counts out and in, losses step by step


def test_only_steps_that_log_wait_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr("util.runlog.training_log.peak_memory_mb", lambda _: 1.0)
    log = TrainingLog(RunLog(tmp_path), 4, 10, DEVICE, ALONE, [1, 2, 3], FOCAL)
    log.start_epoch(0)
    waited = []
    for number, step in enumerate(steps(10, DEVICE), start=1):
        with Waits() as waits:
            log.add(step.window, step.plan.num_boxes, step.total, step.counted, step=number, rates=RATES)
        waited.append(waits.number)
    assert [number for number, count in enumerate(waited, start=1) if count] == [4, 8, 10]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]


def test_a_step_that_is_left_out_does_not_wait_either(tmp_path):
    log = TrainingLog(RunLog(tmp_path), 4, 10, DEVICE, ALONE, [1, 2, 3], FOCAL)
    log.start_epoch(0)
    with Waits() as waits:
        log.add_skipped(step=1, rates=RATES)
    assert not waits.seen
