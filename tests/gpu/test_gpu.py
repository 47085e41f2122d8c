"""On a GPU the network says what it says on the CPU: the same losses and detections, in half precision nearly so."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import Learner, Step, accumulate, predict
from models.losses.events import count_events
from models.losses.matcher import matched_targets
from tests.helpers.networks import tiny_dino
from util.base.launcher import ProcessInfo
from util.detection.batch import Window
from util.distributed.collectives import plan_window
from util.runlog.class_skill import FocalSettings
from util.runlog.run_log import RunLog
from util.runlog.training_log import TrainingLog
from util.training.precision import Precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")
COUNTS = (2, 0, 1, 3)


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions would round their input to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def single(batch):
    """A batch in float32, as a loader makes it."""
    targets = [{k: v.float() if v.is_floating_point() else v for k, v in t.items()} for t in batch.targets]
    return replace(batch, images=batch.images.float(), targets=targets)


def batches():
    return [single(batch) for batch in tiny_dino.cut(COUNTS, 2)]


def window_on(device, amp="off"):
    """Losses of one window, and the gradients at their true size."""
    model, criterion, _ = tiny_dino.build()
    model = model.float().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision(amp, device.type)
    learner = Learner(model, criterion.to(device), optimizer, precision, device, max_norm=float("inf"))
    window = Window(batches())
    losses, _ = accumulate(learner, window, plan_window(window.num_boxes, window.most_boxes, device))
    precision.unscale_and_clip(optimizer, model.parameters(), learner.max_norm)
    return {name: sum(part[name].item() for part in losses) for name in losses[0]}, tiny_dino.gradients(model)


def assert_finite(gradients):
    assert gradients
    assert not [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


def test_a_window_has_the_losses_and_gradients_of_the_cpu():
    expected, their_gradients = window_on(tiny_dino.CPU)
    losses, gradients = window_on(GPU)
    assert losses == pytest.approx(expected, rel=1e-3)
    assert_finite(gradients)
    norms, expected_norms = (
        {name: gradient.norm().item() for name, gradient in some.items()} for some in (gradients, their_gradients)
    )
    assert norms == pytest.approx(expected_norms, rel=1e-2, abs=1e-4)


def test_a_window_in_bf16_is_close():
    expected, _ = window_on(tiny_dino.CPU)
    losses, gradients = window_on(GPU, "bf16")
    assert all(np.isfinite(list(losses.values())))
    assert losses["loss"] == pytest.approx(expected["loss"], rel=0.1)
    assert_finite(gradients)


def test_a_window_in_fp16_is_close():
    """Its gradients may overflow at the scaler's first scale; the scaler skips such a step and lowers the scale."""
    expected, _ = window_on(tiny_dino.CPU)
    losses, _ = window_on(GPU, "fp16")
    assert all(np.isfinite(list(losses.values())))
    assert losses["loss"] == pytest.approx(expected["loss"], rel=0.05)


def detections_on(device):
    model, _, postprocess = tiny_dino.build()
    precision = Precision("off", device.type)
    return predict(model.float().to(device), postprocess.to(device), batches(), precision, device)


def test_detections_are_those_of_the_cpu():
    expected, found = detections_on(tiny_dino.CPU), detections_on(GPU)
    assert found.images == expected.images
    assert len(found.score) > 0
    assert np.array_equal(found.image_id, expected.image_id)
    assert np.array_equal(found.label, expected.label)
    assert np.allclose(found.score, expected.score, atol=1e-3)
    assert np.allclose(found.xyxy, expected.xyxy, atol=0.5)  # pixels of 512


@pytest.fixture
def waiting_is_an_error():
    """Whatever makes the host wait for the GPU raises, as far as PyTorch notices."""

    def switch(mode):
        torch.cuda.set_sync_debug_mode(mode)

    yield switch
    switch("default")


def test_metering_waits_for_the_gpu_on_steps_that_log_alone(tmp_path, waiting_is_an_error):
    model, criterion, _ = tiny_dino.build()
    model, criterion = model.float().to(GPU).train(), criterion.to(GPU)
    log = TrainingLog(RunLog(tmp_path), 3, 3, GPU, ProcessInfo(0, 1, 0), [1, 2, 3], FocalSettings(0.25, 2.0, 12))
    log.start_epoch(0)
    window = Window(batches())
    plan = plan_window(window.num_boxes, window.most_boxes, GPU)
    learner = Learner(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1), Precision("off", "cuda"), GPU, 0.1)
    for number in (1, 2, 3):
        losses, events = accumulate(learner, window, plan)
        norm = torch.ones((), device=GPU)
        step = Step(window, plan, losses, events, norm, norm > 0.1, True)
        with pytest.raises(RuntimeError, match="synchronizing") if number == 3 else nullcontext():
            waiting_is_an_error("error")
            log.add(window, plan.num_boxes, step.total, step.counted, step=number, rates={"lr": 0.1})
        waiting_is_an_error("default")


def test_counting_events_never_waits_for_the_gpu(waiting_is_an_error):
    model, criterion, _ = tiny_dino.build()
    batch = batches()[0].to(GPU)
    outputs = model.float().to(GPU).train()(batch.images, batch.mask, batch.targets, batch.most_boxes)
    [assignment, *_] = criterion.to(GPU).matcher([outputs.last], batch.targets)
    labels, _ = matched_targets(batch.targets, assignment)
    wanted = count_events(outputs.last, batch.targets, assignment, labels)
    waiting_is_an_error("error")
    found = count_events(outputs.last, batch.targets, assignment, labels)
    waiting_is_an_error("default")
    assert {name: value.item() for name, value in found.items()} == {name: v.item() for name, v in wanted.items()}
