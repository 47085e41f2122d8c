"""The loops: one epoch of training, one window of it, and one pass of prediction.

The engine receives its parts ready-made. It imports neither models nor datasets,
and it never sees the config.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from util.detection.batch import Batch, Target, Window, windows
from util.distributed.collectives import StepRequests, WindowPlan, plan_window
from util.metrics.collect import collect_detections
from util.metrics.tables import Detections
from util.training.denominator import Denominator
from util.training.precision import Precision


class Criterion(Protocol):
    """What the engine needs of a loss; see `models.losses.criterion`."""

    def train(self) -> Any:
        """Switch to training mode."""

    def losses_and_events(
        self, outputs: Any, targets: Sequence[Target], num_boxes: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of a batch, and the events that the log counts."""


@runtime_checkable
class SyncsGradients(Protocol):
    """A model whose backward pass exchanges gradients with other ranks, as DistributedDataParallel."""

    def no_sync(self) -> AbstractContextManager[None]:
        """A context without the exchange."""


@dataclass(frozen=True)
class Learner:
    """The parts of an optimizer step."""

    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    precision: Precision
    device: torch.device
    max_norm: float  # largest gradient norm of a step; infinity does not clip
    denominator: Denominator = field(default_factory=Denominator)


@dataclass(frozen=True)
class Step:
    """The outcome of an optimizer step."""

    window: Window
    plan: WindowPlan
    losses: list[dict[str, Tensor]]  # of each batch: its part of the window's
    events: list[dict[str, Tensor]]  # of each batch, all 0 for ghosts: sums that the criterion counts for the log
    grad_norm: Tensor  # before clipping, the same on all ranks
    is_clipped: Tensor  # whether it was too large
    is_taken: bool  # False: the gradient is not finite on any rank, and the weights are unchanged

    @property
    def total(self) -> dict[str, Tensor]:
        """The losses of the window on this rank; for the log, the gradient's norm and whether it was clipped."""
        gradient = {"grad_norm": self.grad_norm, "clipped_share": self.is_clipped.float()}
        return {**_added(self.losses), **gradient}

    @property
    def counted(self) -> dict[str, Tensor]:
        """The events of the window on this rank."""
        return _added(self.events)


def _added(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums by name."""
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}


def train_one_epoch(
    learner: Learner,
    loader: Iterable[Batch],
    *,
    accum_steps: int,
    before_step: Callable[[], StepRequests],
    after_step: Callable[[Step], None],
) -> None:
    """Step the optimizer once per window of `accum_steps` batches, except where the gradient is not finite.

    Args:
        learner: the parts.
        loader: this rank's batches of the epoch.
        accum_steps: batches per window.
        before_step: sets the learning rate and returns what this rank asks all ranks to do after the step.
        after_step: averages, logs and saves. All ranks get the same
            `plan`, `grad_norm` and `is_taken`, so they may act on these together.
    """
    learner.model.train()
    learner.criterion.train()
    for window in windows(loader, accum_steps):
        agreed = plan_window(window.num_boxes, window.most_boxes, learner.device, before_step())
        plan = learner.denominator(agreed)
        losses, events = accumulate(learner, window, plan)
        grad_norm = learner.precision.unscale_and_clip(learner.optimizer, learner.model.parameters(), learner.max_norm)
        is_taken = bool(torch.isfinite(grad_norm))
        if is_taken:
            learner.precision.step(learner.optimizer)
            learner.denominator.commit(plan)
        else:
            learner.precision.skip()
        learner.optimizer.zero_grad(set_to_none=True)
        after_step(Step(window, plan, losses, events, grad_norm, grad_norm > learner.max_norm, is_taken))


def accumulate(
    learner: Learner, window: Window, plan: WindowPlan
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Backpropagate a window and return the losses of its batches, and their events.

    Every loss term is a sum over boxes or queries divided by the same `num_boxes`, that of
    the whole window averaged over ranks. So the terms of the batches simply add up, and a
    window of K batches gives the gradient of one batch K times as large.
    """
    parts: list[dict[str, Tensor]] = []
    counted: list[dict[str, Tensor]] = []
    for i, batch in enumerate(window.batches, start=1):
        torch.manual_seed(batch.seed)
        with only_sync_on(learner.model, last=i == len(window.batches)):
            moved = batch.to(learner.device)
            with learner.precision.autocast():
                outputs = learner.model(moved.images, moved.mask, moved.targets, plan.most_boxes)
            losses, events = learner.criterion.losses_and_events(outputs, moved.targets, plan.num_boxes)
            if batch.is_ghost:  # keeps pace with the other ranks and contributes nothing
                losses = {name: value * 0.0 for name, value in losses.items()}
            scaled = learner.precision.scale(losses["loss"])
            scaled.backward(nan_if_not_finite(scaled))
        parts.append({name: value.detach() for name, value in losses.items()})
        counted.append({name: torch.zeros_like(value) if batch.is_ghost else value for name, value in events.items()})
    return parts, counted


def nan_if_not_finite(loss: Tensor) -> Tensor:
    """The gradient to start from: 1, or NaN where the loss is not finite.

    The gradient of an infinite loss may be finite. With NaN in every weight's gradient, the exchange of gradients
    informs the other ranks, and all of them skip the step without further communication.
    """
    return torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan).to(loss.dtype)


@torch.inference_mode()
def predict(
    model: nn.Module,
    postprocess: nn.Module,
    loader: Iterable[Batch],
    precision: Precision,
    device: torch.device,
) -> Detections:
    """Run the model over a loader. The table names every image of the loader, also those without a detection."""
    model.eval()
    images: list[int] = []
    found: list[dict[str, Tensor]] = []
    for batch in loader:
        moved = batch.to(device)
        with precision.autocast():
            outputs = model(moved.images, moved.mask, only_last=True)
        found += [{k: v.cpu() for k, v in image.items()} for image in postprocess(outputs, moved.targets)]
        images += [int(t["image_id"]) for t in batch.targets]
    return collect_detections(images, found)


def only_sync_on(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Let DDP exchange gradients in the last backward pass of a window only."""
    return model.no_sync() if not last and isinstance(model, SyncsGradients) else nullcontext()
