"""What training says while it runs: a row and a console line every few steps, a row per epoch."""

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
from util.config.schema import Config
from util.detection.batch import Batch, Window
from util.distributed.collectives import gather_objects
from util.runlog.class_skill import FocalSettings
from util.runlog.console_line import train_line
from util.runlog.meters import StepMeter, Totals
from util.runlog.run_log import SCHEMA, RunLog
from util.runlog.step_statistics import empty_counts, figures, window_counts

CONSOLE_IMAGES = 20  # with boxes: a console line is of as many of the last rows as it takes to have seen them,
CONSOLE_ROWS = 50  # but of no more rows than these


def _recent_meter() -> StepMeter:
    return StepMeter(keeps_steps=True)


@dataclass
class TrainingLog:
    """Collects the losses of an epoch and tells them. All ranks call it alike; the log of rank 0 speaks.

    Args:
        log: where to tell.
        every: optimizer steps between rows.
        num_windows: optimizer steps of an epoch.
        device: where the losses live.
        process: this rank.
        category_ids: all that the data has.
        focal: how the class loss is computed.
        is_verbose: the console gets every loss term.
    """

    log: RunLog
    every: int
    num_windows: int
    device: torch.device
    process: ProcessInfo
    category_ids: Sequence[int]
    focal: FocalSettings
    is_verbose: bool = False
    epoch: int = 0
    window: int = 0  # optimizer steps done in this epoch
    _recent: StepMeter = field(default_factory=_recent_meter)
    _epoch: StepMeter = field(default_factory=StepMeter)
    _waited: float = 0.0
    _told: int = 0  # the window of the last row
    _first: int = 0  # the window at which this process began
    _begun: float = 0.0  # when it did
    _started: float = 0.0  # when the epoch began; a moment in the past where another process had begun it
    _since: float = 0.0  # when the last row was told
    _progress: Progress | None = None
    _told_lately: deque[Totals] = field(default_factory=lambda: deque(maxlen=CONSOLE_ROWS))

    def start_epoch(self, epoch: int, window: int = 0, states: Sequence[dict[str, Any]] = ()) -> None:
        """From here on figures belong to `epoch`, of which `window` steps are done; `states` as `state` gave them."""
        self.epoch = epoch
        self.window = window
        self._first = window
        self._told = window
        self._recent = _recent_meter()
        self._epoch = StepMeter()
        self._waited = 0.0
        self._begun = self._started = self._since = time.monotonic()
        if states and states[0].get("schema") != SCHEMA:
            self.log.info("warning: the figures of the steps before are of another version; the epoch's begin here")
        elif states:
            self._recent.restore([s["recent"] for s in states], self.process, self.device)
            self._epoch.restore([s["epoch"] for s in states], self.process, self.device)
            self._told, self._waited = states[0]["told"], states[0]["waited"]
            self._started -= states[0]["seconds"]
            self._since -= states[0]["seconds_since"]
        is_shown = self.log.folder is not None and sys.stdout.isatty()
        self._progress = Progress(f"epoch {epoch}", self.num_windows, "steps", is_shown=is_shown, done=window)

    def state(self) -> list[dict[str, Any]]:
        """What each rank has collected and not told yet, in plain values; all ranks must call it together."""
        now = time.monotonic()
        mine = {
            "schema": SCHEMA,
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
        """One optimizer step more.

        Args:
            window: its batches, on the CPU.
            num_boxes: the denominator of its losses: boxes of all ranks (at least 1) / ranks.
            losses: of the step, on this rank.
            events: likewise, sums as the criterion counts them.
            step: how many there were since the start of training.
            rates: its learning rates.
        """
        denominator = num_boxes * self.process.world_size
        counts = window_counts(window, denominator, self.category_ids, self.focal.num_queries)
        for meter in (self._recent, self._epoch):
            meter.add(losses, events, counts)
        self._advance(step, rates)

    def add_skipped(self, *, step: int, rates: dict[str, float]) -> None:
        """An optimizer step that was not taken; its losses and images count nowhere."""
        counts = empty_counts(self.category_ids, skipped=int(self.process.is_main))
        for meter in (self._recent, self._epoch):
            meter.add({}, {}, counts)
        self._advance(step, rates)

    def _advance(self, step: int, rates: dict[str, float]) -> None:
        self.window += 1
        if step % self.every == 0 or self.window == self.num_windows:
            self._tell(step, rates)
        if self._progress:
            self._progress.advance()

    def _tell(self, step: int, rates: dict[str, float]) -> None:
        now = time.monotonic()
        steps = self.window - self._told
        seconds = now - self._since
        totals = self._recent.read(self.process, self.device)
        values = self._figures(totals)
        clock = {
            "time": seconds / steps,
            "data": self._waited / steps,
            "images_per_second": values["images"] / max(seconds, 1e-9),
            "max_mem_mb": peak_memory_mb(self.device),
        }
        self.log.row("train", epoch=self.epoch, step=step, **rates, **values, **clock)
        self._told_lately.append(totals)
        lately = self._lately()
        eta = (now - self._begun) / (self.window - self._first) * (self.num_windows - self.window)
        shown = {**rates, **self._figures(lately), **clock, "skipped": values["skipped"]}
        where = (self.epoch, self.window, self.num_windows, eta)
        self.log.info(train_line(*where, shown, steps=lately.steps, is_verbose=self.is_verbose))
        self._recent = _recent_meter()
        self._waited = 0.0
        self._since = now
        self._told = self.window

    def _figures(self, totals: Totals) -> dict[str, Any]:
        return figures(totals, self.focal)

    def _lately(self) -> Totals:
        """The newest stretches, as many as it takes to see some images with boxes.

        Where nine images of ten have none, a few steps are often without a box, and their loss says nothing.
        """
        lately = Totals()
        for totals in reversed(self._told_lately):
            lately = totals + lately
            if lately.counts.get("images_with_boxes", 0) >= CONSOLE_IMAGES:
                break
        return lately

    def finish_epoch(self, step: int) -> None:
        """The figures of the epoch."""
        self.close()
        seconds = time.monotonic() - self._started
        values = self._figures(self._epoch.read(self.process, self.device))
        self.log.row("epoch", epoch=self.epoch, step=step, **values, seconds=seconds)
        per_second = values["images"] / max(seconds, 1e-9)
        loss = f"mean loss per step {values['loss']:.4f}" if "loss" in values else "no step was taken"
        self.log.info(
            f"Epoch: [{self.epoch}] done in {seconds:.0f} s ({per_second:.1f} images/s): {loss}; "
            f"{values['images']} images, {values['images_with_boxes']} with boxes"
        )

    def close(self) -> None:
        """Leave the terminal's line to others."""
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
) -> TrainingLog:
    """The training log that a config asks for."""
    loss = config.loss
    focal = FocalSettings(loss.focal_alpha, loss.focal_gamma, config.model.num_queries, loss.cls_loss == "focal")
    every = config.runtime.log_every
    return TrainingLog(log, every, num_windows, device, process, category_ids, focal, is_verbose)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident_bytes() / 2**20
