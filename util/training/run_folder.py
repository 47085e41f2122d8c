"""The folder of a run: hold it, open its log with all that is needed to repeat the run, save checkpoints."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.folder_lock import lock_folder
from util.base.launcher import ProcessInfo
from util.base.text import printable
from util.config import Config, dump
from util.config.load import RUN_TITLE
from util.distributed.collectives import wait_for_all
from util.distributed.exit_codes import REQUEUE
from util.distributed.preemption import STOP, Preempted
from util.runlog.run_log import RunLog
from util.runlog.tensorboard import load_summary_writer
from util.training.checkpoints.checkpoint import BEST_NAME, OWN_NAME, copy_best, rotate
from util.training.checkpoints.start import Start
from util.training.run_state import RunState
from util.training.step_size import StepSize

BEST_METRIC = "all/per_class/AP"


@contextmanager
def hold_run_folder(args: argparse.Namespace) -> Iterator[None]:
    """Hold the run folder of a training, so that no other process writes into it.

    Raises:
        UserError: none is named, it cannot be written, or another process holds it.
    """
    if not args.config_file or not args.output_dir:
        raise UserError("training needs --config_file CONFIG and --output_dir logs/NAME")
    with lock_folder(args.output_dir, "training"):
        yield


@dataclass
class RunFolder:
    """The folder of a training or an evaluation: its log and its checkpoints.

    Args:
        path: of the folder.
        log: its log; on all ranks but the main one it does nothing.
        process: this rank.
        config: of the run.
        labels: columns of the rows of evaluations and facts of their reports: "weights" that are evaluated, "ema" or
            "model", and the "checkpoint" where evaluating it is all that the command does.
        saved_step: of the run's own checkpoint, -1 where there is none.
    """

    path: Path
    log: RunLog
    process: ProcessInfo
    config: Config
    labels: Mapping[str, str]
    saved_step: int = -1
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def is_of_training(self) -> bool:
        """Whether a training writes there, not an evaluation of a checkpoint."""
        return "checkpoint" not in self.labels

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the last checkpoint of this process is old enough for a new one inside an epoch."""
        minutes = self.config.runtime.checkpoint_every_minutes
        return self.process.is_main and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def save_checkpoint(self, state: RunState[Any], name: str = OWN_NAME) -> None:
        """Write a checkpoint, on the main rank. No collective: that rank alone knows the best epoch.

        The run's own checkpoint is kept under the next older name when one of another step takes its place.
        """
        if not self.process.is_main:
            return
        state.rows = self.log.rows_on_disk()
        if name == OWN_NAME:
            if state.step != self.saved_step:
                rotate(self.path, self.config.runtime.keep_last_checkpoints)
            self.saved_step = state.step
            self.saved_at = time.monotonic()
        state.save(self.path / name)

    def is_evaluation_due(self, state: RunState[Any]) -> bool:
        """Whether a run at the end of an epoch has to be evaluated, every `eval_every` epochs and after the last."""
        is_last = state.epoch == self.config.optim.epochs
        is_due = is_last or state.epoch % self.config.eval.eval_every == 0
        return state.window == 0 and is_due and state.judged < state.epoch

    def save_evaluated(self, state: RunState[Any], metrics: Mapping[str, float]) -> None:
        """Record an evaluation in the state, and save the checkpoint, under a further name where it is the best."""
        if state.record_evaluation(BEST_METRIC, metrics.get(BEST_METRIC)):
            self.save_checkpoint(state, BEST_NAME)
        self.save_checkpoint(state)

    def save_for_good(self, state: RunState[Any]) -> None:
        """Save the checkpoint at the end of an epoch under its own name, every `save_checkpoint_interval` epochs."""
        interval = self.config.runtime.save_checkpoint_interval
        name = f"checkpoint{state.epoch:04d}.pth"
        is_end = state.epoch > 0 and state.window == 0
        if is_end and interval and state.epoch % interval == 0 and not (self.path / name).exists():
            self.save_checkpoint(state, name)


def open_run_folder(
    path: Path, config: Config, process: ProcessInfo, device: torch.device, labels: Mapping[str, str]
) -> RunFolder:
    """Open the folder of a run and its log, which starts with what is needed to repeat the run.

    An evaluation leaves the config of an earlier one until it replaces the results.
    """
    folder = RunFolder(path, RunLog(None), process, config, labels)
    if not process.is_main:
        return folder
    has_summary = folder.is_of_training and config.runtime.tensorboard
    summary_writer = load_summary_writer() if has_summary else None  # where it is missing, nothing is written
    if folder.is_of_training or not (path / "config.py").exists():
        save_config(path, config, process)
    log = folder.log = RunLog(path, summary_writer)
    log.info(
        f"command: {command_of(process)}\ntorch {torch.__version__} on {device}, {process.world_size} rank(s), "
        f"run folder {path}"
    )
    if folder.is_of_training:
        optim = config.optim
        log.info(
            f"images per step = {StepSize(optim.batch_size, optim.gradient_accumulation_steps, process.world_size)}"
        )
    return folder


def start_log(
    folder: RunFolder, start: Start, state: RunState[Any], messages: Iterable[str], facts: Mapping[str, Any]
) -> None:
    """Start the rows of a training, or continue those of its own checkpoint; log how it starts.

    Args:
        folder: of the run.
        start: where the training starts from.
        state: loaded from there.
        messages: for the log.
        facts: columns of the row of the start.
    """
    if start.kind == "own":
        folder.saved_step = state.step
        folder.log.resume_rows(state.rows)
    else:
        folder.log.start_rows()
    if start.kind == "resume" and start.path and folder.process.is_main and not copy_best(start.path, folder.path):
        state.best = {}  # its checkpoint is missing
    for message in messages:
        folder.log.info(message)
    if state.epoch < folder.config.optim.epochs:  # a finished run that is started again leaves no trace in its rows
        folder.log.start(**state.started, **facts)


def exit_for_requeue(log: RunLog, where: str) -> NoReturn:
    """End the run as a signal or a file has asked for; everything is saved, and all ranks must call it together.

    Raises:
        Preempted: always.
    """
    log.info(f"asked to stop ({STOP.requested_by}): stopped {where}. Exit code {REQUEUE}")
    wait_for_all()
    STOP.ignore_further_signals()
    raise Preempted


def save_config(folder: Path, config: Config, process: ProcessInfo) -> None:
    """Write the resolved config as a config file with the command in its docstring."""
    text = dump(config, f"{RUN_TITLE}, started by\n\n    {command_of(process)}\n")
    write_atomically(folder / "config.py", lambda file: file.write(text.encode(errors="backslashreplace")))


def command_of(process: ProcessInfo) -> str:
    """The command line of this process on one line, as the model card reads it from the log."""
    launcher = ["torchrun", f"--nproc_per_node={process.world_size}"] if process.world_size > 1 else ["python"]
    return printable(shlex.join([*launcher, *sys.argv]))
