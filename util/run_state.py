"""Everything that changes while a run trains, and how it gets into a checkpoint and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.checkpoint import OWN_NAME, CheckpointError, load, load_strictly, save
from util.ema import WeightAverage
from util.precision import Precision

BEST_CHECKPOINT = "best.pth"


@dataclass
class RunState:
    """What trains, and where it stands. Learning rate and randomness follow from the position, so they are not kept."""

    model: nn.Module
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    precision: Precision
    facts: Mapping[str, Any]  # plain values that do not change: config, category_ids, category_names
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    best: dict[str, Any] = field(default_factory=dict)  # epoch, and value of the metric it is best at

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {
            **self.facts,
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict() if self.average.is_copy else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
        }

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is of another model, or holds no position to go on from.
        """
        content = load(path)
        lacking = sorted({"model", "optimizer", "epoch", "step", "best", "config"} - content.keys())
        if lacking:
            raise CheckpointError(
                f"{path}: cannot be resumed, it lacks {', '.join(lacking)}; use --pretrain_model_path for its weights"
            )
        self._check_model(content["config"], path)
        load_strictly(self.model, content["model"], path)
        if self.average.is_copy:
            load_strictly(self.average.module, content.get("ema") or content["model"], path)
        self._restore_optimizer(content["optimizer"], path)
        self.precision.load_state_dict(content.get("scaler") or {})
        self.epoch, self.step, self.best = content["epoch"], content["step"], dict(content["best"])

    def _check_model(self, theirs: Mapping[str, Any], path: Path) -> None:
        """A checkpoint resumes only the model it was made of; the backbone's first weights do not matter any more."""
        ours = self.facts["config"]
        differing = [
            f"{key} {theirs[key]!r} instead of {ours[key]!r}"
            for key in self.facts["model_keys"]
            if key != "backbone_weights" and key in theirs and theirs[key] != ours[key]
        ]
        if differing:
            raise CheckpointError(
                f"{path}: is a checkpoint of another model ({', '.join(differing)}). Use its config, another "
                "--output_dir, or --pretrain_model_path to take over what fits"
            )

    def _restore_optimizer(self, theirs: dict[str, Any], path: Path) -> None:
        """Take over the moments; rates and decays are those of the config in force."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(theirs)
        except ValueError as error:
            raise CheckpointError(
                f"{path}: its optimizer has other groups of parameters ({error}); resume with its param_dict_type, "
                "or use --pretrain_model_path for its weights"
            ) from error
        for group, ours in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(ours)

    def save(self, folder: Path, *, is_best: bool, keep_as: str | None) -> None:
        """Write copies for the best and for those to keep, then the checkpoint of the run.

        In this order a run that dies in between repeats the epoch, and writes the copies again.
        """
        content = self.content()
        for name in (*([BEST_CHECKPOINT] if is_best else []), *([keep_as] if keep_as else []), OWN_NAME):
            save(folder / name, content)
