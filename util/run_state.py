"""Everything that changes while a run trains, and how it gets into a checkpoint and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.checkpoint import CheckpointError, load, load_strictly, save
from util.config import flatten
from util.ema import WeightAverage
from util.optim import build_optimizer
from util.precision import Precision
from util.schema import Config


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
    judged: int = 0  # epochs done when the weights were last judged
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
            "judged": self.judged,
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
        self._check_categories(content.get("category_ids"), path)
        load_strictly(self.model, content["model"], path)
        if self.average.is_copy:
            load_strictly(self.average.module, content.get("ema") or content["model"], path)
        self._restore_optimizer(content["optimizer"], path)
        self.precision.load_state_dict(content.get("scaler") or {})
        self.epoch, self.step = content["epoch"], content["step"]
        self.judged, self.best = content.get("judged", self.epoch), dict(content["best"])

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

    def _check_categories(self, theirs: list[int] | None, path: Path) -> None:
        """With other categories the same weights would select and predict other classes."""
        ours = self.facts["category_ids"]
        if theirs is not None and theirs != ours:
            raise CheckpointError(
                f"{path}: was trained on the categories {theirs}, the data has {ours}. Use its data, another "
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

    def note(self, metric: str, value: float | None) -> bool:
        """The weights were judged: remember that, and whether they are the best so far. True if they are."""
        self.judged = self.epoch
        if value is None or value <= self.best.get("value", -1.0):
            return False
        self.best = {"metric": metric, "value": value, "epoch": self.epoch - 1}
        return True

    def save(self, path: Path) -> None:
        """Write a checkpoint; it is whole, or the one that was there stays."""
        save(path, self.content())


def build_state(config: Config, names: Mapping[int, str], model: nn.Module, device: torch.device) -> RunState:
    """Optimizer, average and precision around a model; `names` are the data's categories by id."""
    optim = config.optim
    optimizer = build_optimizer(
        model,
        kind=optim.param_dict_type,
        lr=optim.lr,
        lr_backbone=optim.lr_backbone,
        lr_linear_proj_mult=optim.lr_linear_proj_mult,
        weight_decay=optim.weight_decay,
    )
    average = WeightAverage(model, optim.ema_decay if optim.use_ema else 0.0, optim.ema_warmup_steps)
    facts = {
        "config": flatten(config),
        "model_keys": sorted(vars(config.model)),
        "category_ids": sorted(names),
        "category_names": {str(k): v for k, v in names.items()},
    }
    return RunState(model, average, optimizer, Precision(optim.amp, device.type), facts)
