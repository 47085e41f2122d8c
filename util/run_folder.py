"""The folder of a run and how its log begins: with all that is needed to repeat the run."""

import shlex
import sys
from pathlib import Path

import torch

from util.config import dump
from util.distributed import Ranks
from util.files import write_whole
from util.logger import RunLog
from util.schema import Config


def open_log(folder: Path, config: Config, here: Ranks, device: torch.device, *, is_training: bool) -> RunLog:
    """The log of the run folder, begun with what is needed to repeat the run; a run's config outlives evaluations."""
    if not here.is_main:
        return RunLog(None)
    launcher = ["torchrun", f"--nproc_per_node={here.world_size}"] if here.world_size > 1 else ["python"]
    command = shlex.join([*launcher, *sys.argv])
    if is_training or not (folder / "config.py").exists():
        text = dump(config, f"The resolved config of a run, started by\n\n    {command}\n")
        write_whole(folder / "config.py", lambda file: file.write(text.encode(errors="backslashreplace")))
    log = RunLog(folder)
    log.say(
        f"command: {command}\ntorch {torch.__version__} on {device}, {here.world_size} rank(s), run folder {folder}"
    )
    if is_training:
        per_rank, accumulation = config.optim.batch_size, config.optim.gradient_accumulation_steps
        parts = f"{per_rank} per rank x {accumulation} accumulation x {here.world_size} ranks"
        log.say(f"images per step = {parts} = {per_rank * accumulation * here.world_size}")
    return log
