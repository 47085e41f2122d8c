"""What the losses of an optimizer step are divided by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from util.distributed.collectives import WindowPlan


class Denominator:
    """The boxes of each step, or their moving average over steps.

    Where nine images of ten have no box, the steps of a small batch have 0, 1 or 5, and their losses are divided by 1,
    1 or 5: a box counts less beside others. Divided by an average, each box and each image counts about the same. The
    first average is the boxes of the first step. It is kept for all ranks together, so that a run resumes with it on
    another number of ranks.

    Args:
        momentum: share of the old average that stays; 0: the boxes of the step itself.
        world_size: ranks.
    """

    def __init__(self, momentum: float = 0.0, world_size: int = 1) -> None:
        self.momentum = momentum
        self.world_size = world_size
        self.average: float | None = None  # as a plan has it: per rank

    def __call__(self, plan: WindowPlan) -> WindowPlan:
        """The plan with the denominator to use; the same on all ranks."""
        before = plan.num_boxes if self.average is None else self.average
        return replace(plan, num_boxes=self.momentum * before + (1.0 - self.momentum) * plan.num_boxes)

    def commit(self, plan: WindowPlan) -> None:
        """Record that the step of a plan from `__call__` was taken; skipped steps never enter the average."""
        self.average = plan.num_boxes

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"boxes_per_step": None if self.average is None else self.average * self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, on any number of ranks; {} restarts the average."""
        boxes = state.get("boxes_per_step")
        self.average = None if boxes is None else boxes / self.world_size
