"""A DINO of some hundred thousand weights in float64, and the same images cut into batches in several ways."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torchvision.models.resnet import BasicBlock

from engine import Learner, accumulate
from models import build_model
from models.backbones.build import BACKBONES
from models.backbones.resnet import ResNetBackbone
from util.base.seed import derive_seed
from util.config import load_config
from util.detection.batch import Batch, Window
from util.distributed.collectives import plan_window
from util.training.precision import Precision

CONFIG = Path(__file__).parents[3] / "config" / "DINO" / "DINO_tiny_phantom.py"
# dn_number 50 shares its queries out by the boxes of the fullest image, so the cut of a step could show there
OPTIONS = (
    "hidden_dim=32",
    "dim_feedforward=32",
    "nheads=2",
    "num_queries=12",
    "num_select=12",
    "dn_number=50",
    "enc_n_points=2",
    "dec_n_points=2",
)
THIN = replace(BACKBONES["resnet10_narrow"], build=partial(ResNetBackbone, BasicBlock, (1, 1, 1, 1), width=8))
SIDE = 96
CPU = torch.device("cpu")


def build(*options, category_ids=(1, 2, 3)):
    """Model, criterion and post-processing; the heads are moved off their start, so that every loss has a gradient."""
    torch.manual_seed(5)
    with mock.patch.dict(BACKBONES, resnet10_narrow=THIN):
        model, criterion, postprocess = build_model(load_config(CONFIG, [*OPTIONS, *options]), category_ids)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    return model.double(), criterion, postprocess


def target(image_id, num_boxes):
    """Boxes, labels and the seed of the denoising noise of an image, as a function of its number alone."""
    generator = torch.Generator().manual_seed(image_id)
    boxes = torch.rand(num_boxes, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    return {
        "boxes": boxes,
        "labels": torch.randint(1, 4, (num_boxes,), generator=generator),
        "image_id": torch.tensor(image_id),
        "orig_size": torch.tensor([512, 512]),
        "noise_seed": torch.tensor(derive_seed(0, "denoising", 0, image_id)),
    }


def batch(image_ids, counts, *, is_ghost=False, side=SIDE):
    """Images `image_ids` with `counts[i]` boxes on image i."""
    images = [
        torch.randn(3, side, side, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in image_ids
    ]
    mask = torch.zeros(len(images), side, side, dtype=torch.bool)
    return Batch(torch.stack(images), mask, [target(i, counts[i]) for i in image_ids], is_ghost)


def cut(counts, size):
    """All images in batches of `size`."""
    ids = range(len(counts))
    return [batch(ids[i : i + size], counts) for i in range(0, len(counts), size)]


def learner(model, criterion, *, max_norm=0.1):
    """What a step works with, on the CPU in full precision."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, criterion, optimizer, Precision("off", "cpu"), CPU, max_norm)


def plan(window):
    """What a single rank agrees with itself."""
    return plan_window(window.num_boxes, window.most_boxes, CPU)


def gradients(model):
    """By name; every trainable parameter has one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def run_window(batches, *options):
    """Losses and gradients of a window on a single rank."""
    model, criterion, _ = build(*options)
    window = Window(batches)
    losses, _ = accumulate(learner(model.train(), criterion), window, plan(window))
    return {name: sum(part[name].item() for part in losses) for name in losses[0]}, gradients(model)


def check_equal(found, wanted):
    """Two answers of `run_window` differ by rounding at most."""
    assert found[0].keys() == wanted[0].keys()
    for name, loss in wanted[0].items():
        np.testing.assert_allclose(found[0][name], loss, rtol=1e-9, atol=1e-12, err_msg=name)
    check_gradients(found[1], wanted[1])


def check_gradients(found, wanted):
    """Some biases before group norm have no gradient but rounding, hence the absolute term."""
    assert found.keys() == wanted.keys()
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-12 * largest, err_msg=name)
