"""30 steps of the tiny recipe, on the fast path and on the plain one.

Training in float32 is chaotic: two queries with nearly the same score change places, and the runs part for good,
whatever the difference was that came first (docs/accumulation.md). So free runs are compared in float64, and in float32
the two paths take each step from the same weights. The figures printed with `-s` stand in docs/performance.md.
"""

from dataclasses import replace

import pytest
import torch

from datasets.build import build_split, build_train_loader
from datasets.phantom.write import make_phantom
from engine import Learner, accumulate, train_one_epoch
from models import build_model
from tests.helpers.training import CONFIG
from util.config.load import load_config
from util.detection.batch import windows
from util.distributed.collectives import Wishes, plan_window
from util.training.optimizer import build_optimizer
from util.training.precision import Precision

pytestmark = pytest.mark.slow

STEPS, CPU = 30, torch.device("cpu")
PLAIN = ("attn_backend=torch", "fast_layers=False")
FAST = ("attn_backend=sparse", "fast_layers=True")
WITH_COMPILER = ("attn_backend=cpp", "fast_layers=True", "activation_checkpointing=True", "channels_last=True")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """The first epoch of a phantom with as many images as the steps take."""
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=4 * STEPS, val=4, seed=1, positive_fraction=0.3, size=256)
    config = load_config(CONFIG, ["num_workers=0"])
    split = build_split(config.data, folder, "train", num_classes=config.model.num_classes)
    loader, sampler = build_train_loader(split, config.data, batch_size=2, accumulation=2, seed=0)
    sampler.set_epoch(0)
    return list(loader)


def learner(options, dtype):
    """The tiny recipe at its full learning rate."""
    config = load_config(CONFIG, options)
    torch.manual_seed(0)
    model, criterion, _ = build_model(config, (1, 2, 3))
    rates = {"lr": 1e-3, "lr_backbone": 1e-3, "lr_linear_proj_mult": 0.1, "weight_decay": 1e-4}
    model = model.to(dtype).train()
    with torch.no_grad():  # off the centres of cells, where all points are at first, and where a slope has two values
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter += 0.1 * torch.rand(parameter.shape, dtype=dtype)
    optimizer = build_optimizer(model, kind="default", is_fused=config.speed.fast_layers, **rates)
    return Learner(model, criterion, optimizer, Precision("off", "cpu"), CPU, 0.1)


class Doubled(torch.nn.Module):
    """Casts what comes in."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, mask, targets, most_boxes):
        targets = [{**t, "boxes": t["boxes"].double()} for t in targets]
        return self.model(images.double(), mask, targets, most_boxes)


def test_free_runs_in_float64_have_the_same_losses(batches):
    losses = {}
    for options in (PLAIN, FAST):
        taken = losses.setdefault(options, [])
        whole = learner(options, torch.float64)
        train_one_epoch(
            replace(whole, model=Doubled(whole.model)),
            batches,
            accum_steps=2,
            before_step=lambda: Wishes(save=False, stop=False),
            after_step=lambda step, taken=taken: taken.append(step.total["loss"].item()),
        )
    apart = [abs(a - b) / b for a, b in zip(losses[FAST], losses[PLAIN], strict=True)]
    print(f"\nfree runs in float64 differ by at most {max(apart):.1e} in {len(apart)} steps")  # noqa: T201 for the record
    assert len(apart) == STEPS
    assert max(apart) < 1e-3


@pytest.mark.parametrize("options", [FAST, WITH_COMPILER], ids=["nothing compiled", "with a compiler"])
def test_each_step_in_float32_is_the_same_from_the_same_weights(batches, options):
    plain, fast = learner(PLAIN, torch.float32), learner(options, torch.float32)
    apart = []
    for window in windows(batches, 2):
        plan = plan_window(window.num_boxes, window.most_boxes, CPU)
        fast.model.load_state_dict(plain.model.state_dict())
        totals = [sum(part["loss"].item() for part in accumulate(one, window, plan)[0]) for one in (plain, fast)]
        norms = [one.precision.unscale_and_clip(one.optimizer, one.model.parameters(), 0.1) for one in (plain, fast)]
        apart.append([abs(b - a) / a for a, b in (totals, map(float, norms))])
        plain.precision.step(plain.optimizer)
        for one in (plain, fast):
            one.optimizer.zero_grad(set_to_none=True)
    most = [max(column) for column in zip(*apart, strict=True)]
    print(f"\n{options}: losses differ by at most {most[0]:.1e}, gradient norms by {most[1]:.1e}")  # noqa: T201
    assert len(apart) == STEPS
    assert max(most) < 1e-3
