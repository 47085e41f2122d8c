"""The smallest network, loss and batch that the engine can work with, in float64."""

import torch
from torch import nn

from engine import Learner, train_one_epoch
from util.detection.batch import Batch
from util.distributed.collectives import StepRequests
from util.training.precision import Precision

CPU = torch.device("cpu")


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, 1).double()

    def forward(self, images, _mask, _targets=None, _most_boxes=None, *, only_last=False):  # noqa: ARG002
        return self.net(images)


class SumOverBoxes(nn.Module):
    """Stands in for SetCriterion: a term on every query plus one on every box."""

    def forward(self, outputs, targets, num_boxes):
        terms = [out.square().sum() + out[: len(t["labels"])].sum() for out, t in zip(outputs, targets, strict=True)]
        return {"loss": sum(terms) / num_boxes}

    def losses_and_events(self, outputs, targets, num_boxes):
        return self(outputs, targets, num_boxes), {}


def batch_of(counts, *, is_ghost=False):
    images = torch.stack([torch.full((5, 8), 0.1 * (c + 1)).double() for c in counts])
    targets = [
        {
            "labels": torch.zeros(c, dtype=torch.long),
            "boxes": torch.zeros(c, 4),
            "image_id": torch.tensor(c),
            "noise_seed": torch.tensor(c),
        }
        for c in counts
    ]
    return Batch(images, torch.zeros(len(counts), 1, 1, dtype=torch.bool), targets, is_ghost)


def toy_learner(model, *, max_norm=float("inf"), amp="off"):
    return Learner(
        model, SumOverBoxes(), torch.optim.SGD(model.parameters(), lr=1.0), Precision(amp, "cpu"), CPU, max_norm
    )


class Plus(SumOverBoxes):
    """Adds something to the loss of the images with two boxes; the gradient stays as it is."""

    def __init__(self, added):
        super().__init__()
        self.added = added

    def forward(self, outputs, targets, num_boxes):
        loss = super().forward(outputs, targets, num_boxes)["loss"]
        return {"loss": loss + (self.added if any(len(t["labels"]) == 2 for t in targets) else 0.0)}


def train(learner, batches, accum_steps, *, before=StepRequests, after=lambda _: None):
    train_one_epoch(learner, batches, accum_steps=accum_steps, before_step=before, after_step=after)


def steps(learner, batches, accum_steps=1):
    seen = []
    train(learner, batches, accum_steps, after=seen.append)
    return seen


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def is_finite(step):
    """Whether the losses of this rank are."""
    return all(bool(torch.isfinite(losses["loss"])) for losses in step.losses)
