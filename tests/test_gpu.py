"""On a GPU the network says what it says on the CPU: the same losses and detections, in half precision nearly so."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_dino
import torch

from engine import Learner, accumulate, predict
from util.batch import Window
from util.distributed import plan_window
from util.precision import Precision

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
    return predict(
        model.float().to(device),
        postprocess.to(device),
        batches(),
        precision=Precision("off", device.type),
        device=device,
        after_batch=lambda _: None,
    )


def test_detections_are_those_of_the_cpu():
    expected, found = detections_on(tiny_dino.CPU), detections_on(GPU)
    assert found.images == expected.images
    assert len(found.score) > 0
    assert np.array_equal(found.image_id, expected.image_id)
    assert np.array_equal(found.label, expected.label)
    assert np.allclose(found.score, expected.score, atol=1e-3)
    assert np.allclose(found.xyxy, expected.xyxy, atol=0.5)  # pixels of 512
