"""The loops: one epoch of training, one window of it, and one pass of prediction.

The engine receives its parts ready-made. It imports neither models nor datasets,
and it never sees the config.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from util.batch import Batch, Window, windows
from util.distributed import count_window
from util.metrics.tables import Detections
from util.precision import Precision


@dataclass(frozen=True)
class Learner:
    """What an optimizer step works with."""

    model: nn.Module
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    device: torch.device
    max_norm: float  # largest gradient norm of a step; infinity does not clip


def train_one_epoch(
    learner: Learner,
    loader: Iterable[Batch],
    *,
    accum_steps: int,
    before_step: Callable[[], None],
    after_step: Callable[[Window, dict[str, Tensor]], None],
) -> None:
    """Step the optimizer once per window of `accum_steps` batches.

    Args:
        learner: the parts.
        loader: this rank's batches of the epoch.
        accum_steps: batches per window.
        before_step: sets the learning rate.
        after_step: gets the window and its losses: logging and the averaged weights hang there.

    Raises:
        FloatingPointError: a loss or the gradient norm is not finite; the step was not taken.
    """
    learner.model.train()
    learner.criterion.train()
    for window in windows(loader, accum_steps):
        before_step()
        losses = accumulate(learner, window)
        losses["grad_norm"] = learner.precision.unscale_and_clip(
            learner.optimizer, learner.model.parameters(), learner.max_norm
        )
        check_finite(losses, allow_overflow=learner.precision.skips_overflow)
        if learner.precision.skips_overflow:
            losses |= without_overflow(losses["grad_norm"])
        learner.precision.step(learner.optimizer)
        learner.optimizer.zero_grad(set_to_none=True)
        after_step(window, losses)


def accumulate(learner: Learner, window: Window) -> dict[str, Tensor]:
    """Backpropagate a window and return its losses, summed over the batches.

    Every loss term is a sum over boxes or queries divided by the same `num_boxes`, that of
    the whole window averaged over ranks. So the terms of the batches simply add up, and a
    window of K batches gives the gradient of one batch K times as large.
    """
    counts = count_window(window.num_boxes, window.most_boxes, learner.device)
    total: dict[str, Tensor] = {}
    for i, batch in enumerate(window.batches, start=1):
        with only_sync_on(learner.model, last=i == len(window.batches)):
            moved = batch.to(learner.device)
            with learner.precision.autocast():
                outputs = learner.model(moved.images, moved.mask, moved.targets, counts.most_boxes)
            losses = learner.criterion(outputs, moved.targets, counts.num_boxes)
            if batch.is_ghost:  # keeps step with the other ranks and contributes nothing
                losses = {name: value * 0.0 for name, value in losses.items()}
            learner.precision.scale(losses["loss"]).backward()
        for name, value in losses.items():
            total[name] = total.get(name, 0) + value.detach()
    return total


@torch.inference_mode()
def predict(
    model: nn.Module,
    postprocess: nn.Module,
    loader: Iterable[Batch],
    *,
    precision: Precision,
    device: torch.device,
    after_batch: Callable[[Batch], None],
) -> Detections:
    """Run the model over a loader. The table names every image of the loader, also those without a detection."""
    model.eval()
    images: list[int] = []
    found: list[dict[str, Tensor]] = []
    for batch in loader:
        moved = batch.to(device)
        with precision.autocast():
            outputs = model(moved.images, moved.mask)
        found += [{k: v.cpu() for k, v in image.items()} for image in postprocess(outputs, moved.targets)]
        images += [int(t["image_id"]) for t in batch.targets]
        after_batch(batch)
    return _table(images, found)


def _table(images: list[int], found: list[dict[str, Tensor]]) -> Detections:
    """One row per detection, image by image."""
    empty = {"scores": torch.zeros(0), "labels": torch.zeros(0), "boxes": torch.zeros(0, 4)}
    columns = {k: torch.cat([empty[k], *(f[k] for f in found)]).double().numpy() for k in empty}
    rows = np.repeat(np.array(images, dtype=np.int64), [len(f["scores"]) for f in found])
    return Detections(
        images=tuple(images),
        image_id=rows,
        label=columns["labels"].astype(np.int64),
        xyxy=columns["boxes"],
        score=columns["scores"],
    )


def only_sync_on(model: nn.Module, *, last: bool) -> AbstractContextManager:
    """DDP shares gradients in every backward; within a window only the last one has to."""
    return nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()


def check_finite(losses: dict[str, Tensor], *, allow_overflow: bool = False) -> None:
    """Stop before the optimizer step where a loss or the gradient norm is NaN or infinite, and say which.

    The gradient norm is the same on all ranks and infinite or NaN as soon as one rank's loss is, so all ranks agree.
    With `allow_overflow` the loss decides, which is each rank's own: a rank that stops takes the others down.

    Args:
        losses: scalars by name, with `grad_norm` and `loss` among them.
        allow_overflow: the gradient norm alone may overflow: the fp16 scaler skips that step and lowers its scale.
    """
    sentinel = losses["loss"] if allow_overflow else losses["loss"] + losses["grad_norm"]
    if torch.isfinite(sentinel):
        return
    bad = {name: value.item() for name, value in losses.items() if not torch.isfinite(value)}
    raise FloatingPointError(
        f"not finite: {bad}; the optimizer step was not taken. A lower lr or amp='off' are the usual mends"
    )


def without_overflow(grad_norm: Tensor) -> dict[str, Tensor]:
    """The gradient norm for the log, 0 on a step that the fp16 scaler skipped, and whether it was one."""
    overflow = ~torch.isfinite(grad_norm)
    return {"grad_norm": grad_norm.masked_fill(overflow, 0.0), "overflow": overflow.to(grad_norm.dtype)}
