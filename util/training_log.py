"""What training says while it runs: a row and a console line every few steps, a row per epoch."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from util.batch import Batch, Window
from util.logger import Progress, RunLog, train_line
from util.meters import StepMeter


@dataclass
class TrainingLog:
    """Collects the losses of an epoch and tells them. All ranks call it alike; the log of rank 0 speaks.

    Args:
        log: where to tell.
        every: optimizer steps between rows.
        num_windows: optimizer steps of an epoch.
        device: where the losses live.
        world_size: ranks.
    """

    log: RunLog
    every: int
    num_windows: int
    device: torch.device
    world_size: int
    epoch: int = 0
    window: int = 0  # optimizer steps done in this epoch
    _recent: StepMeter = field(default_factory=StepMeter)
    _epoch: StepMeter = field(default_factory=StepMeter)
    _waited: float = 0.0
    _started: float = 0.0
    _since: float = 0.0
    _progress: Progress | None = None

    def start_epoch(self, epoch: int) -> None:
        """From here on figures belong to `epoch`."""
        self.epoch, self.window = epoch, 0
        self._recent, self._epoch = StepMeter(), StepMeter()
        self._waited = 0.0
        self._started = self._since = time.monotonic()
        is_shown = self.log.folder is not None and sys.stdout.isatty()
        self._progress = Progress(f"epoch {epoch}", self.num_windows, "steps", is_shown=is_shown)

    def watch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time spent waiting for them is noted."""
        batches = iter(loader)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def add(self, window: Window, losses: dict[str, Tensor], *, step: int, rates: dict[str, float]) -> None:
        """One optimizer step more; `step` counts from the start of training, `rates` are its learning rates."""
        counts = {
            "images": window.num_images,
            "images_with_boxes": sum(len(t["labels"]) > 0 for b in window.batches if b.num_images for t in b.targets),
            "boxes": window.num_boxes,
        }
        for meter in (self._recent, self._epoch):
            meter.add(losses, counts, self.device)
        self.window += 1
        if step % self.every == 0 or self.window == self.num_windows:
            self._tell(step, rates)
        if self._progress:
            self._progress.advance()

    def _tell(self, step: int, rates: dict[str, float]) -> None:
        now = time.monotonic()
        steps = self._recent.losses.steps
        seconds = now - self._since
        recent, mean = self._recent.read(self.world_size), self._epoch.read(self.world_size)
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "step": step,
            **rates,
            **recent,
            "time": seconds / steps,
            "data": self._waited / steps,
            "images_per_second": recent["images"] / max(seconds, 1e-9),
            "max_mem_mb": peak_memory_mb(self.device),
        }
        self.log.row("train", **row)
        eta = (now - self._started) / self.window * (self.num_windows - self.window)
        self.log.say(train_line(self.epoch, self.window, self.num_windows, eta, row, mean))
        self._recent, self._waited, self._since = StepMeter(), 0.0, now

    def finish_epoch(self, step: int) -> None:
        """The means of the epoch."""
        if self._progress:
            self._progress.close()
        seconds = time.monotonic() - self._started
        values = self._epoch.read(self.world_size)
        self.log.row("epoch", epoch=self.epoch, step=step, **values, seconds=seconds)
        per_second = values["images"] / max(seconds, 1e-9)
        self.log.say(
            f"Epoch: [{self.epoch}] done in {seconds:.0f} s ({per_second:.1f} images/s): mean loss per step "
            f"{values['loss']:.4f}; {values['images']} images, {values['images_with_boxes']} with boxes"
        )


def peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
