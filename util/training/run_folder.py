"""The folder of a run and how its log begins: with all that is needed to repeat the run."""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.folder_lock import lock_folder
from util.base.launcher import ProcessInfo
from util.base.text import printable
from util.config.load import RUN_TITLE, dump
from util.config.schema import Config
from util.runlog.run_log import RunLog
from util.runlog.tensorboard import load_summary_writer
from util.training.step_size import Cut


@dataclass
class SaveClock:
    """When the run's own checkpoint is written again.

    Args:
        minutes: between checkpoints inside an epoch; 0: only at the end of epochs.
        step: of the checkpoint that is there, -1 where there is none.
    """

    minutes: float
    step: int = -1
    saved: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for a new one."""
        return self.minutes > 0 and time.monotonic() - self.saved >= 60 * self.minutes

    def moves_on(self, step: int) -> bool:
        """A checkpoint of `step` is written: whether that is another step than the last time."""
        is_other = step != self.step
        self.step = step
        self.saved = time.monotonic()
        return is_other


@contextmanager
def sole_training(args: argparse.Namespace) -> Iterator[None]:
    """Hold the run folder of a training.

    Raises:
        UserError: none is named, it cannot be written, or another process writes there.
    """
    if not args.config_file or not args.output_dir:
        raise UserError("training needs --config_file CONFIG and --output_dir logs/NAME")
    with lock_folder(args.output_dir, "training"):
        yield


def open_log(folder: Path, config: Config, process: ProcessInfo, device: torch.device, *, is_training: bool) -> RunLog:
    """The log of a folder, begun with what is needed to repeat the run.

    The config of an evaluation that is there stays until its results are replaced.
    """
    if not process.is_main:
        return RunLog(None)
    summary_writer = load_summary_writer() if is_training and config.runtime.tensorboard else None
    if is_training or not (folder / "config.py").exists():
        save_config(folder, config, process)
    log = RunLog(folder, summary_writer)
    log.info(
        f"command: {command_of(process)}\ntorch {torch.__version__} on {device}, {process.world_size} rank(s), "
        f"run folder {folder}"
    )
    if is_training:
        cut = Cut(config.optim.batch_size, config.optim.gradient_accumulation_steps, process.world_size)
        log.info(f"images per step = {cut}")
    return log


def save_config(folder: Path, config: Config, process: ProcessInfo) -> None:
    """Write the resolved config, which is a config file itself, and in its head the command."""
    text = dump(config, f"{RUN_TITLE}, started by\n\n    {command_of(process)}\n")
    write_atomically(folder / "config.py", lambda file: file.write(text.encode(errors="backslashreplace")))


def command_of(process: ProcessInfo) -> str:
    """The command line of this process, on one line, which the model card looks for."""
    launcher = ["torchrun", f"--nproc_per_node={process.world_size}"] if process.world_size > 1 else ["python"]
    return printable(shlex.join([*launcher, *sys.argv]))
