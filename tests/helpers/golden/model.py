"""The network under the fill rule, the golden batches and the golden figures of tests/golden."""

import gzip
import json
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from models import build_model
from tests.helpers.golden import fill_rule
from util.config import load_config

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config" / "DINO" / "DINO_4scale.py"
OPTIONS = ["num_classes=4", "dn_labelbook_size=4", "dn_box_noise_scale=0.4"]
ORIG_SIZES = torch.tensor([[480, 600], [448, 576]])
TARGETS = {
    "A": [
        ([1, 2, 1], [[0.25, 0.375, 0.25, 0.3125], [0.625, 0.5, 0.1875, 0.4375], [0.75, 0.21875, 0.375, 0.25]]),
        ([], []),
    ],
    "B": [
        ([3], [[0.4375, 0.5625, 0.5, 0.375]]),
        ([0, 2], [[0.3125, 0.3125, 0.28125, 0.21875], [0.6875, 0.65625, 0.40625, 0.53125]]),
    ],
    "Z": [([], []), ([], [])],
}


def figures(name):
    """Arrays of tests/golden/NAME.npz."""
    return np.load(ROOT / "tests" / "golden" / f"{name}.npz")


@cache
def table(name):
    """Content of tests/golden/NAME.json.gz."""
    return json.loads(gzip.decompress((ROOT / "tests" / "golden" / f"{name}.json.gz").read_bytes()))


def targets(name, dtype=torch.float64):
    """Targets of batch A, B or Z."""
    return [
        {"labels": torch.tensor(labels, dtype=torch.long), "boxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4)}
        for labels, boxes in TARGETS[name]
    ]


def filled(*options, dtype=torch.float64):
    """Model, criterion and post-processing of the golden runs."""
    model, criterion, postprocess = build_model(load_config(CONFIG, [*OPTIONS, *options]))
    return fill_rule.fill(model).to(dtype), criterion, postprocess


def images(dtype=torch.float64):
    """The golden batch."""
    pixels, mask = fill_rule.golden_images()
    return pixels.to(dtype), mask


def entries(array, count=64):
    """Evenly spaced values of a flattened array."""
    flat = np.ascontiguousarray(array.detach().numpy() if isinstance(array, torch.Tensor) else array).reshape(-1)
    count = min(count, flat.size)
    return flat[[j * flat.size // count for j in range(count)]]


@contextmanager
def golden_noise():
    """Replace the four draws of each denoising set-up by the closed form of the golden runs."""
    call = 0

    def uniform(shape):
        nonlocal call
        call += 1
        return torch.from_numpy(fill_rule.uniform(f"dn_call_{call}", int(np.prod(shape)))).reshape(shape)

    def rand(*shape, generator=None):
        assert generator is None
        return uniform(shape)

    def randint(low, high, shape, generator=None):
        assert generator is None
        return torch.floor(low + (high - low) * uniform(shape)).long()

    with mock.patch.multiple("models.transformer.denoising.torch", rand=rand, randint=randint):
        yield
