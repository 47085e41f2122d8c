"""The learning rate as a function of the position in the training."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """What every learning rate is multiplied by: a linear warm-up, and after it drops by epoch or a cosine."""

    kind: Literal["multistep", "cosine", "flat_cosine"] = "multistep"
    epochs: int = 1  # at which a cosine ends
    warmup_steps: int = 0
    drops: tuple[int, ...] = ()  # multistep: epochs
    drop_factor: float = 0.1
    final_factor: float = 0.0  # what a cosine ends at
    flat_share: float = 0.0  # flat_cosine: the share of the training before the cosine

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Of an optimizer step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.kind == "multistep":
            epoch = step // steps_per_epoch
            return warmup * self.drop_factor ** sum(epoch >= drop for drop in self.drops)
        end = self.epochs * steps_per_epoch
        flat = self.flat_share * end if self.kind == "flat_cosine" else 0.0
        start = max(float(self.warmup_steps), flat)
        done = min(1.0, max(0.0, (step - start) / (end - start))) if end > start else 0.0
        return warmup * (self.final_factor + (1.0 - self.final_factor) * (1.0 + math.cos(math.pi * done)) / 2.0)
