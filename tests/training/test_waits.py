"""Where a training step waits for the device, counted on the meta device."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from tests.helpers.device_waits import Waits
from tests.helpers.networks import tiny_dino

META = torch.device("meta")
ON_HOST = ("noise_seed", "image_id")
OTHER_LOSSES = ("cls_loss=mal", "image_head=True", "image_loss_coef=1")


def moved(batch):
    """The batch on the device, as `Batch.to` moves it: what names an image stays."""
    targets = [{k: v if k in ON_HOST else v.to(META) for k, v in t.items()} for t in batch.targets]
    return replace(batch, images=batch.images.to(META), mask=batch.mask.to(META), targets=targets)


@pytest.mark.parametrize(
    ("counts", "seen"),
    [((2, 0), {"cpu": 1}), ((0, 0), {})],
    ids=["one copy of the costs, for all layers and images", "nothing where nothing is to be matched"],
)
@pytest.mark.parametrize("options", [(), OTHER_LOSSES], ids=["as before", "with overlaps and image head"])
def test_forward_and_losses_wait_for(counts, seen, options, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know this device
    model, criterion, _ = tiny_dino.build(*options)
    batch = moved(tiny_dino.batch(range(2), counts))
    model.to(META).train()
    with Waits() as waits:
        outputs = model(batch.images, batch.mask, batch.targets, batch.most_boxes)
        losses, _ = criterion.losses_and_events(outputs, batch.targets, 1.0)
        losses["loss"].backward()
    assert dict(waits.seen) == seen


def test_a_batch_travels_to_the_device_without_waiting():
    batch = tiny_dino.batch(range(2), (2, 0))
    with Waits() as waits:
        there = batch.to(META)
    assert there.images.device == there.targets[0]["boxes"].device == META
    assert waits.number == 0
