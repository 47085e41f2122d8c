"""Choose the checkpoint that a training starts from, and the checkpoint and config of an evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from util.base.console import print_note
from util.base.errors import UserError
from util.config import Config, flatten, load_config
from util.config.load import add_later_knobs, resolve, without_paths
from util.config.schema import PATHS
from util.training.checkpoints.checkpoint import BEST_NAME, OWN_NAME, CheckpointError, load
from util.training.checkpoints.earlier_training import require_none


@dataclass(frozen=True)
class Start:
    """Where a training starts from."""

    kind: Literal["own", "resume", "pretrain", "scratch"]
    path: Path | None
    reason: str

    @cached_property
    def resumed(self) -> dict[str, Any]:
        """The content of the checkpoint that the training resumes, read once; empty where it resumes none.

        Raises:
            CheckpointError: it cannot be read.
        """
        return load(self.path) if self.path is not None and self.kind in ("own", "resume") else {}


def choose_start(output_dir: Path, resume: Path | None, pretrain: Path | None) -> Start:
    """Choose the run's own checkpoint; else --resume; else --pretrain_model_path; else scratch. Nothing else is used.

    The own checkpoint comes first so that a job which is requeued with its first command resumes where it was.

    Raises:
        UserError: the own checkpoint is missing while others of an earlier training are there.
    """
    own = output_dir / OWN_NAME
    if own.is_file():
        ignored = resume or pretrain
        beyond = f"; {ignored} was for the first start" if ignored and ignored != own else ""
        return Start("own", own, f"resuming from this run's own {own}{beyond}")
    require_none(own, output_dir / BEST_NAME, resume)
    if resume:
        return Start("resume", resume, f"resuming from {resume}")
    if pretrain:
        return Start("pretrain", pretrain, f"weights from {pretrain}, everything else new")
    return Start("scratch", None, "a new run")


def unused_warnings(start: Start, *given: Path | None) -> list[str]:
    """Warn of checkpoints that the command line names and the run does not start from.

    Raises:
        CheckpointError: one of them is missing: a typing error should show before the checkpoint is needed.
    """
    warnings = []
    for path in given:
        if path is None or path == start.path:
            continue
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint; check the path")
        if not (start.path and start.path.is_file() and path.samefile(start.path)):
            warnings.append(f"{path} is not used: {start.reason}")
    return warnings


def load_for_evaluation(args: argparse.Namespace) -> tuple[Path, dict[str, Any], Config]:
    """Load the checkpoint of --resume, or else the best one of the run folder: its path, content and config.

    Raises:
        UserError: none is named, or it holds no config and none is given.
    """
    if args.pretrain_model_path:
        raise UserError("--pretrain_model_path is where a training starts; the checkpoint to evaluate is --resume")
    path = args.resume or (args.output_dir / BEST_NAME if args.output_dir else None)
    if path is None:
        raise UserError("evaluation needs --resume CHECKPOINT, or --output_dir with the folder of a run")
    content = load(path)
    if args.config_file:
        return path, content, load_config(args.config_file, args.options)
    if content.get("config") is not None:
        config = config_inside(path, content, args.options)
        _note_unused_paths(path, content["config"], config)
        return path, content, config
    raise UserError(f"{path}: holds no config, as official checkpoints do not; give --config_file")


def config_inside(path: Path, content: Mapping[str, Any], options: Iterable[str] | None) -> Config:
    """Resolve the config inside a checkpoint without its paths, with KEY=VALUE options on top."""
    source = f"{path} (the config inside)"
    return resolve(without_paths(add_later_knobs(content["config"], source)), options, source=source)


def _note_unused_paths(path: Path, recorded: Mapping[str, Any], config: Config) -> None:
    """Note which paths of the checkpoint's config are not used."""
    used = flatten(config)
    for key in PATHS:
        if recorded.get(key) and not used[key]:
            print_note(f"{path}: {key} of its training is not used; to name a folder: --options {key}=DIR")
