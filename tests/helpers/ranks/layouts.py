"""One and the same training, its windows cut in many ways; test_layouts.py also runs this on several ranks.

All images have one size: padding depends on who shares a batch, and a network with group norm sees it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from datasets.sampling.orders import PositiveFractionOrder, ShuffledOrder
from datasets.sampling.samplers import WindowBatchSampler
from engine import Learner, train_one_epoch
from tests.helpers.networks import tiny_dino
from util.config import load_config
from util.distributed.collectives import ProcessInfo, StepRequests, distribute, process_group, sum_over_ranks
from util.training.optimizer import build_optimizer
from util.training.precision import Precision
from util.training.run_state import build_state
from util.training.step_size import StepSize

OPTIONS = ["hidden_dim=64"]  # with 32, group norm has one channel to a group and the biases before it no gradient
SIDE = 64
ALONE = ProcessInfo(rank=0, world_size=1, local_rank=0)
PATTERNS = {  # boxes on each image, by the images of a full window
    "balanced": lambda total: [2] * total,
    "all_boxes_on_one": lambda total: [0] * (total - 1) + [5],
    "one_box": lambda total: [1] + [0] * (total - 1),
    "empty": lambda total: [0] * total,
    "positive_share": lambda total: [4] + [0] * (total - 1),  # the image with boxes comes again within its window
    "short": lambda total: [(3 * i + 2) % 4 for i in range(total)],
}
KNOBS = {  # what else is trained for
    "plain": (),
    "mal": ("cls_loss=mal",),
    "varifocal": ("cls_loss=varifocal",),
    "ia_bce": ("cls_loss=ia_bce",),
    "position_supervised": ("cls_loss=position_supervised",),
    "image_head": ("image_head=True", "image_loss_coef=0.1"),
    "average_of_boxes": ("num_boxes_norm=ema", "num_boxes_momentum=0.5"),
}
KNOBS["together"] = (*KNOBS["mal"], *KNOBS["image_head"], *KNOBS["average_of_boxes"])
SHORT = {2: (1, 1, 1), 3: (2, 1, 2), 4: (3, 2, 1), 6: (4, 1, 5), 8: (5, 3, 7)}  # images in the short windows


class NotingPrecision(Precision):
    """Keeps the gradients of the first step as they are before clipping: of all batches and ranks."""

    def __init__(self, model):
        super().__init__("off", "cpu")
        self.model = model
        self.first = None

    def unscale_and_clip(self, *arguments):
        self.first = self.first or tiny_dino.gradients(self.model)
        return super().unscale_and_clip(*arguments)


def epochs(cut, pattern, rank):
    """The batches of one rank. Each of the three epochs is a single window."""
    counts = PATTERNS[pattern](cut.images_per_step)
    short = SHORT[cut.images_per_step]
    for epoch, num_images in enumerate(short if pattern == "short" else [cut.images_per_step] * 3):
        order = ShuffledOrder(num_images, seed=0)
        if pattern == "positive_share":
            order = PositiveFractionOrder(np.array(counts) > 0, 0.6, cut.images_per_step, seed=0)
        sampler = WindowBatchSampler(
            order,
            batch_size=cut.batch_size,
            accumulation=cut.accumulation,
            rank=rank,
            world_size=cut.ranks,
        )
        sampler.set_epoch(epoch)
        yield [
            tiny_dino.batch([k.position for k in keys], counts, is_ghost=all(k.is_ghost for k in keys), side=SIDE)
            for keys in sampler
        ]


def train(cut, pattern, knobs, process=ALONE):
    """Three steps: their losses averaged over ranks, the gradients of the first, and how far all have moved weights."""
    options = [*OPTIONS, *KNOBS[knobs]]
    model, criterion, _ = tiny_dino.build(*options)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    rates = {"lr": 1e-3, "lr_backbone": 1e-3, "lr_linear_proj_mult": 0.1, "weight_decay": 1e-4}
    optimizer = build_optimizer(model, kind="default", **rates)
    precision = NotingPrecision(model)
    config = load_config(tiny_dino.CONFIG, options)
    denominator = build_state(config, {}, 1, model, tiny_dino.CPU, process.world_size).denominator
    parts = (distribute(model, process), criterion, optimizer, precision, tiny_dino.CPU)
    learner = Learner(*parts, max_norm=0.1, denominator=denominator)
    losses = {}

    def after_step(step):
        assert step.is_taken
        means = sum_over_ranks(torch.stack(list(step.total.values()))) / process.world_size
        number = len(losses) // len(means)
        losses.update({f"{name} of step {number}": mean for name, mean in zip(step.total, means, strict=True)})

    for batches in epochs(cut, pattern, process.rank):
        train_one_epoch(learner, batches, accum_steps=cut.accumulation, before_step=StepRequests, after_step=after_step)
    moves = {name: p.detach() - start[name] for name, p in model.named_parameters()}
    return {"losses": losses, "gradients": precision.first, "moves": moves}


def deviations(found, wanted):
    """By kind, the largest relative deviation of a tensor and its name."""
    result = {}
    for kind, tensors in wanted.items():
        assert found[kind].keys() == tensors.keys()
        by_name = {name: deviation(found[kind][name], tensor) for name, tensor in tensors.items()}
        worst = max(by_name, key=by_name.get)
        result[kind] = (by_name[worst], worst)
    return result


def deviation(found, wanted):
    """Largest difference of entries over the largest entry; where all are zero, only zeros will do."""
    difference, size = (found - wanted).abs().max().item(), wanted.abs().max().item()
    return 0.0 if difference == 0 else difference / size if size else float("inf")


def reference(folder, cut, pattern, knobs):
    """Where the training in one piece is, or belongs."""
    return folder / f"{cut.images_per_step} {pattern} {knobs}.pt"


def main(folder, cases, path):
    with process_group("cpu") as process:
        found = []
        for cut, *what in cases:
            cut = StepSize(*cut)
            outcome = train(cut, *what, process)
            if process.is_main:
                found.append(deviations(outcome, torch.load(reference(folder, cut, *what))))
        if process.is_main:
            path.write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
