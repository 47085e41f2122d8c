"""A DINO of a few thousand weights in float64, and the same four images cut into batches in several ways."""

import json
from pathlib import Path

import torch

from engine import Learner
from models import build_model
from util.batch import Batch
from util.config import load_config
from util.precision import Precision
from util.seed import derive_seed

CONFIG = Path(__file__).parent.parent / "config" / "DINO" / "DINO_tiny_phantom.py"
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
SIDE = 96
CPU = torch.device("cpu")


def build(*options, category_ids=(1, 2, 3)):
    """Model, criterion and post-processing; the heads are moved off their start, so that every loss has a gradient."""
    torch.manual_seed(5)
    model, criterion, postprocess = build_model(load_config(CONFIG, [*OPTIONS, *options]), category_ids)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
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


def batch(image_ids, counts, *, is_ghost=False):
    """Images `image_ids` with `counts[i]` boxes on image i."""
    images = [
        torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in image_ids
    ]
    mask = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    return Batch(torch.stack(images), mask, [target(i, counts[i]) for i in image_ids], is_ghost)


def cut(counts, size):
    """All images in batches of `size`."""
    ids = range(len(counts))
    return [batch(ids[i : i + size], counts) for i in range(0, len(counts), size)]


def learner(model, criterion, *, max_norm=0.1):
    """What a step works with, on the CPU in full precision."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, criterion, optimizer, Precision("off", "cpu"), CPU, max_norm)


def gradients(model):
    """By name; every trainable parameter has one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def write(path, losses, grads):
    """Losses as JSON beside the gradients."""
    torch.save(grads, path)
    path.with_suffix(".json").write_text(json.dumps({name: value.item() for name, value in losses.items()}))


def read(path):
    """What `write` wrote."""
    return json.loads(path.with_suffix(".json").read_text()), torch.load(path, weights_only=True)
