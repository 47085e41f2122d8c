"""The log of training: a row and a console line every few steps, and a row per epoch."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from util.base.console import Progress
from util.base.launcher import ProcessInfo
from util.base.memory import peak_resident_bytes
from util.config import Config
from util.detection.batch import Batch, Window
from util.detection.class_map import IDENTITY, ClassMap
from util.distributed.collectives import gather_objects
from util.runlog.class_skill import FocalSettings
from util.runlog.console_line import train_line
from util.runlog.meters import StepMeter, Totals
from util.runlog.run_log import SCHEMA, RunLog
from util.runlog.step_statistics import empty_counts, row_metrics, window_counts

# A console line combines as many of the last rows as it takes to have this many images with boxes, up to a limit:
CONSOLE_IMAGES = 20
CONSOLE_ROWS = 50


def _recent_meter() -> StepMeter:
    return StepMeter(keeps_steps=True)


@dataclass
class TrainingLog:
    """Collects the losses of an epoch and logs them. All ranks make the same calls; rank 0 writes.

    Args:
        log: the log of the run.
        every: optimizer steps between rows.
        num_windows: optimizer steps of an epoch.
        device: of the losses.
        process: this rank.
        category_ids: all categories of the data.
        focal: parameters of the class loss.
        is_verbose: print every loss term to the console.
        classes: the class indices of the categories.
    """

    log: RunLog
    every: int
    num_windows: int
    device: torch.device
    process: ProcessInfo
    category_ids: Sequence[int]
    focal: FocalSettings
    is_verbose: bool = False
    classes: ClassMap = IDENTITY
    epoch: int = 0
    window: int = 0  # optimizer steps done in this epoch
    _recent: StepMeter = field(default_factory=_recent_meter)
    _epoch: StepMeter = field(default_factory=StepMeter)
    _waited: float = 0.0  # seconds spent waiting for batches since the last row
    _logged: int = 0  # the window of the last row
    _first: int = 0  # the window at which this process entered the epoch
    _first_at: float = 0.0  # when it did
    _started: float = 0.0  # start of the epoch, moved back by the time it took before a resume
    _since: float = 0.0  # time of the last row
    _progress: Progress | None = None
    _last_totals: deque[Totals] = field(default_factory=lambda: deque(maxlen=CONSOLE_ROWS))

    def start_epoch(self, epoch: int, window: int = 0, states: Sequence[dict[str, Any]] = ()) -> None:
        """Start or resume an epoch of which `window` steps are done; `states` are the result of `state`."""
        self.epoch = epoch
        self.window = window
        self._first = window
        self._logged = window
        self._recent = _recent_meter()
        self._epoch = StepMeter()
        self._waited = 0.0
        self._first_at = self._started = self._since = time.monotonic()
        if states and states[0].get("schema") != SCHEMA:
            self.log.info("warning: the metrics of earlier steps are of another version; this epoch's start here")
        elif states:
            self._recent.restore([s["recent"] for s in states], self.process, self.device)
            self._epoch.restore([s["epoch"] for s in states], self.process, self.device)
            self._logged, self._waited = states[0]["told"], states[0]["waited"]
            self._started -= states[0]["seconds"]
            self._since -= states[0]["seconds_since"]
        is_shown = self.log.folder is not None and sys.stdout.isatty()
        self._progress = Progress(f"epoch {epoch}", self.num_windows, "steps", is_shown=is_shown, done=window)

    def state(self) -> list[dict[str, Any]]:
        """Return what each rank has collected and not logged yet, as plain values; all ranks must call it."""
        now = time.monotonic()
        own = {
            "schema": SCHEMA,
            "recent": self._recent.state_dict(),
            "epoch": self._epoch.state_dict(),
            "told": self._logged,
            "waited": self._waited,
            "seconds": now - self._started,
            "seconds_since": now - self._since,
        }
        return gather_objects(own)

    def watch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches and record the time spent waiting for them."""
        batches = iter(loader)
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(
        self,
        window: Window,
        num_boxes: float,
        losses: dict[str, Tensor],
        events: dict[str, Tensor],
        *,
        step: int,
        rates: dict[str, float],
    ) -> None:
        """Add an optimizer step.

        Args:
            window: its batches, on the CPU.
            num_boxes: the denominator of its losses: boxes of all ranks (at least 1) / ranks.
            losses: of the step, on this rank.
            events: of the step, on this rank: sums counted by the criterion.
            step: number of steps since the start of training.
            rates: its learning rates.
        """
        denominator = num_boxes * self.process.world_size
        counts = window_counts(window, denominator, self.category_ids, self.focal.num_queries, self.classes)
        for meter in (self._recent, self._epoch):
            meter.add(losses, events, counts)
        self._advance(step, rates)

    def add_skipped(self, *, step: int, rates: dict[str, float]) -> None:
        """Add a skipped optimizer step; its losses and images are not counted."""
        counts = empty_counts(self.category_ids, skipped=int(self.process.is_main))
        for meter in (self._recent, self._epoch):
            meter.add({}, {}, counts)
        self._advance(step, rates)

    def _advance(self, step: int, rates: dict[str, float]) -> None:
        self.window += 1
        if step % self.every == 0 or self.window == self.num_windows:
            self._log_row(step, rates)
        if self._progress:
            self._progress.advance()

    def _log_row(self, step: int, rates: dict[str, float]) -> None:
        now = time.monotonic()
        steps = self.window - self._logged
        seconds = now - self._since
        totals = self._recent.read(self.process, self.device)
        values = row_metrics(totals, self.focal)
        clock = {
            "time": seconds / steps,
            "data": self._waited / steps,
            "images_per_second": values["images"] / max(seconds, 1e-9),
            "max_mem_mb": peak_memory_mb(self.device),
        }
        self.log.row("train", epoch=self.epoch, step=step, **rates, **values, **clock)
        self._last_totals.append(totals)
        recent = self._recent_totals()
        eta = (now - self._first_at) / (self.window - self._first) * (self.num_windows - self.window)
        shown = {**rates, **row_metrics(recent, self.focal), **clock, "skipped": values["skipped"]}
        position = (self.epoch, self.window, self.num_windows, eta)
        self.log.info(train_line(*position, shown, steps=recent.steps, is_verbose=self.is_verbose))
        self._recent = _recent_meter()
        self._waited = 0.0
        self._since = now
        self._logged = self.window

    def _recent_totals(self) -> Totals:
        """Add up the last rows until they hold enough images with boxes.

        If nine images of ten have none, a few steps are often without a box, and their loss says nothing.
        """
        recent = Totals()
        for totals in reversed(self._last_totals):
            recent = totals + recent
            if recent.counts.get("images_with_boxes", 0) >= CONSOLE_IMAGES:
                break
        return recent

    def finish_epoch(self, step: int) -> None:
        """Log the metrics of the epoch."""
        self.close()
        seconds = time.monotonic() - self._started
        values = row_metrics(self._epoch.read(self.process, self.device), self.focal)
        self.log.row("epoch", epoch=self.epoch, step=step, **values, seconds=seconds)
        per_second = values["images"] / max(seconds, 1e-9)
        loss = f"mean loss per step {values['loss']:.4f}" if "loss" in values else "no step was taken"
        self.log.info(
            f"Epoch: [{self.epoch}] done in {seconds:.0f} s ({per_second:.1f} images/s): {loss}; "
            f"{values['images']} images, {values['images_with_boxes']} with boxes"
        )

    def close(self) -> None:
        """Erase the progress line."""
        if self._progress:
            self._progress.close()


def build_training_log(
    log: RunLog,
    config: Config,
    num_windows: int,
    device: torch.device,
    process: ProcessInfo,
    category_ids: Sequence[int],
    is_verbose: bool,
    classes: ClassMap = IDENTITY,
) -> TrainingLog:
    """Build the training log of a config."""
    loss = config.loss
    focal = FocalSettings(loss.focal_alpha, loss.focal_gamma, config.model.num_queries, loss.cls_loss == "focal")
    every = config.runtime.log_every
    return TrainingLog(log, every, num_windows, device, process, category_ids, focal, is_verbose, classes)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory use so far in MiB, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident_bytes() / 2**20
