"""Which checkpoint is judged, and with which config."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from util.base.console import remark
from util.base.errors import UserError
from util.config.load import completed, flatten, load_config, resolve, without_paths
from util.config.schema import PATHS, Config
from util.training.checkpoints import checkpoint


def load_judged(args: argparse.Namespace) -> tuple[Path, dict[str, Any], Config]:
    """(path, content, config) of the checkpoint of --resume, or else of the best one of the run folder.

    Raises:
        UserError: none is named, or it holds no config and none is given.
    """
    if args.pretrain_model_path:
        raise UserError("--pretrain_model_path is where a training starts; the checkpoint to evaluate is --resume")
    path = args.resume or (args.output_dir / checkpoint.BEST_NAME if args.output_dir else None)
    if path is None:
        raise UserError("evaluation needs --resume CHECKPOINT, or --output_dir with the folder of a run")
    content = checkpoint.load(path)
    if args.config_file:
        return path, content, load_config(args.config_file, args.options)
    if content.get("config") is not None:
        config = config_inside(path, content, args.options)
        _tell_paths(path, content["config"], config)
        return path, content, config
    raise UserError(f"{path}: holds no config, as official checkpoints do not; give --config_file")


def config_inside(path: Path, content: Mapping[str, Any], options: Iterable[str] | None) -> Config:
    """The config that a checkpoint holds but for its paths, with KEY=VALUE options on top."""
    source = f"{path} (the config inside)"
    return resolve(without_paths(completed(content["config"], source)), options, source=source)


def _tell_paths(path: Path, recorded: Mapping[str, Any], config: Config) -> None:
    """Say which paths the checkpoint names that nobody has asked for here."""
    used = flatten(config)
    for key in PATHS:
        if recorded.get(key) and not used[key]:
            remark(f"{path}: {key} of its training is not used; to name a folder: --options {key}=DIR")
