"""What training says while it runs: a row and a console line every few steps, a row per epoch."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from util.batch import Batch, Window
from util.distributed import gather_objects
from util.launcher import Ranks
from util.logger import Progress, RunLog, train_line
from util.memory import peak_resident_bytes
from util.meters import StepMeter


@dataclass
class TrainingLog:
    """Collects the losses of an epoch and tells them. All ranks call it alike; the log of rank 0 speaks.

    Args:
        log: where to tell.
        every: optimizer steps between rows.
        num_windows: optimizer steps of an epoch.
        device: where the losses live.
        here: this rank.
    """

    log: RunLog
    every: int
    num_windows: int
    device: torch.device
    here: Ranks
    epoch: int = 0
    window: int = 0  # optimizer steps done in this epoch
    _recent: StepMeter = field(default_factory=StepMeter)
    _epoch: StepMeter = field(default_factory=StepMeter)
    _waited: float = 0.0
    _told: int = 0  # the window of the last row
    _first: int = 0  # the window at which this process began
    _begun: float = 0.0  # when it did
    _started: float = 0.0  # when the epoch began; a moment in the past where another process had begun it
    _since: float = 0.0  # when the last row was told
    _progress: Progress | None = None

    def start_epoch(self, epoch: int, window: int = 0, states: Sequence[dict[str, Any]] = ()) -> None:
        """From here on figures belong to `epoch`, of which `window` steps are done; `states` as `state` gave them."""
        self.epoch, self.window, self._first, self._told = epoch, window, window, window
        self._recent, self._epoch = StepMeter(), StepMeter()
        self._waited = 0.0
        self._begun = self._started = self._since = time.monotonic()
        if states:
            self._recent.restore([s["recent"] for s in states], self.here, self.device)
            self._epoch.restore([s["epoch"] for s in states], self.here, self.device)
            self._told, self._waited = states[0]["told"], states[0]["waited"]
            self._started -= states[0]["seconds"]
            self._since -= states[0]["seconds_since"]
        is_shown = self.log.folder is not None and sys.stdout.isatty()
        self._progress = Progress(f"epoch {epoch}", self.num_windows, "steps", is_shown=is_shown, done=window)

    def state(self) -> list[dict[str, Any]]:
        """What each rank has collected and not told yet, in plain values; all ranks must call it together."""
        now = time.monotonic()
        mine = {
            "recent": self._recent.state_dict(),
            "epoch": self._epoch.state_dict(),
            "told": self._told,
            "waited": self._waited,
            "seconds": now - self._started,
            "seconds_since": now - self._since,
        }
        return gather_objects(mine)

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
            "skipped": 0,
        }
        for meter in (self._recent, self._epoch):
            meter.add(losses, counts, self.device)
        self._advance(step, rates)

    def leave_out(self, *, step: int, rates: dict[str, float]) -> None:
        """An optimizer step that was not taken; its losses and images count nowhere."""
        counts = {"images": 0, "images_with_boxes": 0, "boxes": 0, "skipped": int(self.here.is_main)}
        for meter in (self._recent, self._epoch):
            meter.add({}, counts, self.device)
        self._advance(step, rates)

    def _advance(self, step: int, rates: dict[str, float]) -> None:
        self.window += 1
        if step % self.every == 0 or self.window == self.num_windows:
            self._tell(step, rates)
        if self._progress:
            self._progress.advance()

    def _tell(self, step: int, rates: dict[str, float]) -> None:
        now = time.monotonic()
        steps, seconds = self.window - self._told, now - self._since
        recent, mean = self._recent.read(self.here.world_size), self._epoch.read(self.here.world_size)
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
        eta = (now - self._begun) / (self.window - self._first) * (self.num_windows - self.window)
        self.log.say(train_line(self.epoch, self.window, self.num_windows, eta, row, mean))
        self._recent, self._waited, self._since, self._told = StepMeter(), 0.0, now, self.window

    def finish_epoch(self, step: int) -> None:
        """The means of the epoch."""
        self.close()
        seconds = time.monotonic() - self._started
        values = self._epoch.read(self.here.world_size)
        self.log.row("epoch", epoch=self.epoch, step=step, **values, seconds=seconds)
        per_second = values["images"] / max(seconds, 1e-9)
        loss = f"mean loss per step {values['loss']:.4f}" if "loss" in values else "no step was taken"
        self.log.say(
            f"Epoch: [{self.epoch}] done in {seconds:.0f} s ({per_second:.1f} images/s): {loss}; "
            f"{values['images']} images, {values['images_with_boxes']} with boxes"
        )

    def close(self) -> None:
        """Leave the terminal's line to others."""
        if self._progress:
            self._progress.close()


def peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident_bytes() / 2**20
