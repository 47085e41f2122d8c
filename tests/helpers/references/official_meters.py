"""The figures of the official training log, from a description of what they are: to show beside the new ones.

A console line has, of every name, the median of the last 20 steps and in brackets the mean since the epoch began; of
`class_error` the last step's value alone. Nothing is weighted: a step without boxes counts like any other.
"""

from collections import deque
from statistics import fmean, median_low

import torch

WINDOW = 20
WITHOUT_BOXES = 100.0  # the error of nothing: the accuracy over no box is 0


def class_error(logits, assignment, labels):
    """Of one batch: percent of the matched queries whose best class is a wrong one."""
    if not len(labels):
        return WITHOUT_BOXES
    found = logits[assignment.image, assignment.query].argmax(dim=-1)
    return 100.0 - 100.0 * (found == labels).double().mean().item()


def cardinality_error(logits, targets):
    """Mean over images of |queries whose best class is not the last one - boxes|, as if the last were "no object"."""
    counted = (logits.argmax(dim=-1) != logits.shape[-1] - 1).sum(dim=1)
    boxes = torch.tensor([len(t["labels"]) for t in targets])
    return (counted - boxes).abs().double().mean().item()


class OldMeters:
    """All figures of an epoch."""

    def __init__(self):
        self.values = {}

    def add(self, figures):
        """A step more; a name to its value."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def median(self, name):
        return median_low(deque(self.values[name], WINDOW))

    def mean(self, name):
        return fmean(self.values[name])

    def line(self, step, steps):
        """The line of the console."""
        smoothed = [name for name in self.values if name != "class_error"]
        parts = [f"{name}: {self.median(name):.4f} ({self.mean(name):.4f})" for name in smoothed]
        last = self.values["class_error"][-1]
        return "  ".join([f"Epoch: [0]  [{step}/{steps}]", f"class_error: {last:.2f}", *parts])
