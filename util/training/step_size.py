"""The images of an optimizer step: batch size x accumulation x ranks. Only the product makes a difference."""

from __future__ import annotations

from typing import NamedTuple


class StepSize(NamedTuple):
    """Images per rank and forward pass, forward passes per step, ranks."""

    batch_size: int
    accumulation: int
    ranks: int

    @property
    def images_per_step(self) -> int:
        """The total batch, all that the training depends on."""
        return self.batch_size * self.accumulation * self.ranks

    def __str__(self) -> str:
        parts = f"{self.batch_size} per rank x {self.accumulation} accumulation x {self.ranks} ranks"
        return f"{parts} = {self.images_per_step}"

    def how_to_match(self, other: StepSize) -> str:
        """The setting that gives as many images per step as `other` has, for an error message."""
        accumulation, rest = divmod(other.images_per_step, self.batch_size * self.ranks)
        if rest == 0:
            return f"Set gradient_accumulation_steps={accumulation}"
        return f"Choose batch_size, gradient_accumulation_steps and ranks with the product {other.images_per_step}"
