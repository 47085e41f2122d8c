"""Everything that changes while a run trains, and how it gets into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.config.differences import Change, differences
from util.config.load import flatten
from util.config.schema import BEFORE, Config, OptimConfig
from util.training.checkpoints.categories import other_classes, require_same_classes
from util.training.checkpoints.checkpoint import (
    CheckpointError,
    Fit,
    load,
    load_strictly,
    load_what_fits,
    save,
    weights_of,
)
from util.training.checkpoints.moments import require_moments
from util.training.denominator import Denominator
from util.training.ema import WeightAverage
from util.training.optimizer import Schedule, build_optimizer, set_learning_rate, trainable_parts
from util.training.precision import Precision
from util.training.step_size import Cut

POSITION = ("epoch", "window", "step", "skipped", "collected", "rows", "judged", "best", "operating_point")


@dataclass
class RunState:
    """What trains, and where it stands. Learning rate and randomness follow from the position, so they are not kept."""

    model: nn.Module
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    precision: Precision
    denominator: Denominator
    facts: Mapping[str, Any]  # plain values that do not change: config, cut, num_images, category_ids, category_names
    epoch: int = 0  # epochs done
    window: int = 0  # windows done in the epoch under way
    step: int = 0  # windows done since the start: optimizer steps, those left out included
    skipped: int = 0  # steps left out because they were not finite
    collected: list[dict[str, Any]] = field(default_factory=list)  # by rank: figures of the epoch under way
    rows: int = 0  # bytes of log.jsonl that belong to the steps done
    judged: int = 0  # epochs done when the weights were last judged
    best: dict[str, Any] = field(default_factory=dict)  # epoch, and value of the metric it is best at
    operating_point: dict[str, Any] = field(default_factory=dict)  # of the weights last judged: rule, target, threshold
    attention: str = ""  # the backend that computes deformable attention; others round otherwise

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {
            **self.facts,
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict() if self.average.is_copy else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
            "denominator": self.denominator.state_dict(),
            "attention": self.attention,
            **{name: getattr(self, name) for name in POSITION},
        }

    @property
    def names(self) -> dict[int, str]:
        """The data's categories by id."""
        return {int(category): name for category, name in self.facts["category_names"].items()}

    @property
    def started(self) -> dict[str, Any]:
        """What the log says of a start: position, facts, and which parameters are trained."""
        position = {"epoch": self.epoch, "step": self.step}
        return {**position, **self.facts, "trainable": trainable_parts(self.model)}

    @property
    def told_best(self) -> str:
        """The best epoch so far, in words."""
        return "best {metric}: {value:.4f}, epoch {epoch}".format(**self.best) if self.best else "no best epoch"

    def restore(self, path: Path) -> str:
        """Go on from a checkpoint; what to say of it.

        Raises:
            CheckpointError: it is of another model, data or number of images per step, or holds no position to go on
                from.
        """
        content = load(path)
        needed = ("model", "optimizer", "config", "cut", *POSITION)
        lacking = sorted(name for name in needed if content.get(name) is None)
        if lacking:
            raise CheckpointError(
                f"{path}: cannot be resumed, it lacks {', '.join(lacking)}; use --pretrain_model_path for its weights"
            )
        changes = differences({**BEFORE, **content["config"]}, self.facts["config"])
        self._check_model(changes, path)
        self._check_categories(content, path)
        self._check_steps(content, changes, path)
        load_strictly(self.model, content["model"], path)
        if self.average.is_copy:
            load_strictly(self.average.module, content.get("ema") or content["model"], path)
        self._restore_optimizer(content["optimizer"], path)
        self.precision.load_state_dict(content.get("scaler") or {})
        self.denominator.load_state_dict(content.get("denominator") or {})
        for name in POSITION:
            setattr(self, name, content[name])
        return self._changes(content, changes)

    def take_over(self, path: Path) -> Fit:
        """Begin a new training with the weights of another one, as far as they fit."""
        content = load(path)
        classes = other_classes(content, self.names)
        return load_what_fits(self.model, weights_of(content, path), path, classes)

    def _check_model(self, changes: list[Change], path: Path) -> None:
        """A checkpoint resumes only the model it was made of."""
        refused = [change for change in changes if change.may_change == "never"]
        if refused:
            raise CheckpointError(
                f"{path}: is a checkpoint of another model ({', '.join(map(_mismatch, refused))}). Use its config, "
                "another --output_dir, or --pretrain_model_path to take over what fits"
            )

    def _check_categories(self, content: Mapping[str, Any], path: Path) -> None:
        """With other categories the same weights would select and predict other classes."""
        theirs = content.get("category_ids")
        ours = self.facts["category_ids"]
        if theirs is not None and theirs != ours:
            raise CheckpointError(
                f"{path}: was trained on the categories {theirs}, the data has {ours}. Use its data, another "
                "--output_dir, or --pretrain_model_path to take over what fits"
            )
        way_out = ", or start anew from its weights: another --output_dir and --pretrain_model_path"
        require_same_classes(content, self.names, path, way_out)

    def _check_steps(self, content: Mapping[str, Any], changes: list[Change], path: Path) -> None:
        """A position says which images are done only while a step takes as many of the same images."""
        theirs = Cut(*content["cut"])
        ours = Cut(*self.facts["cut"])
        if theirs.images_per_step != ours.images_per_step:
            raise CheckpointError(
                f"{path}: was trained with {theirs} images per step, this would be {ours}. {ours.mend(theirs)}, or "
                "begin a new training from its weights: another --output_dir and --pretrain_model_path"
            )
        refused = [change for change in changes if change.may_change == "between epochs"]
        images = Change("training images", content.get("num_images"), self.facts["num_images"])
        if images.before != images.after:
            refused = [images, *refused, *(c for c in changes if c.may_change == "with as many images")]
        if content["window"] and refused:
            raise CheckpointError(
                f"{path}: stands inside epoch {content['epoch']}, of which it has done {content['window']} steps, with "
                f"{' and '.join(map(_mismatch, refused))}. Go on with these, or take a checkpoint of the end of an "
                "epoch"
            )

    def _changes(self, content: Mapping[str, Any], changes: list[Change]) -> str:
        """What differs from the part of the run that the checkpoint is of."""
        changed = [str(change) for change in changes if change.may_change != "at the same step size"]
        said = f"; changed since: {', '.join(changed)}" if changed else ""
        attention = content.get("attention") or self._older_attention({**BEFORE, **content["config"]}["attn_backend"])
        if attention != self.attention:
            said += f"; deformable attention was computed by {attention}, now by {self.attention}: the same to rounding"
        before = Cut(*content["cut"])
        now = Cut(*self.facts["cut"])
        return said + (f"; images per step were {before}, now {now}: the same training" if before != now else "")

    def _older_attention(self, wish: str) -> str:
        """The attention backend of a checkpoint that does not name it, on a device as the present one."""
        is_on_cpu = next(self.model.parameters()).device.type == "cpu"
        return ("sparse" if is_on_cpu else "triton") if wish == "auto" else wish

    def _restore_optimizer(self, theirs: Mapping[str, Any], path: Path) -> None:
        """Take over the moments and the rates of the last step; all other settings are those of the config in force.

        They are set before the moments are loaded: `fused` decides on which device PyTorch places the step counts.
        """
        ours = self.optimizer.state_dict()["param_groups"]
        require_moments(self.optimizer, theirs, path)
        kept = ("params", "lr")
        groups = [{**a, **{k: b[k] for k in kept}} for a, b in zip(ours, theirs["param_groups"], strict=True)]
        self.optimizer.load_state_dict({"state": theirs["state"], "param_groups": groups})

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


def _mismatch(change: Change) -> str:
    return f"{change.knob} {change.before!r} instead of {change.after!r}"


def build_state(
    config: Config, names: Mapping[int, str], num_images: int, model: nn.Module, device: torch.device, world_size: int
) -> RunState:
    """Optimizer, average and precision around a model; `names` are the data's categories by id."""
    optim = config.optim
    optimizer = build_optimizer(
        model,
        kind=optim.param_dict_type,
        lr=optim.lr,
        lr_backbone=optim.lr_backbone,
        lr_linear_proj_mult=optim.lr_linear_proj_mult,
        weight_decay=optim.weight_decay,
        decays_vectors=optim.decay_norms_and_biases,
        is_fused=config.speed.fast_layers,
    )
    average = WeightAverage(model, optim.ema_decay if optim.use_ema else 0.0, optim.ema_warmup_steps)
    facts = {
        "config": flatten(config),
        "model_keys": sorted(vars(config.model)),
        "cut": [optim.batch_size, optim.gradient_accumulation_steps, world_size],
        "num_images": num_images,
        "category_ids": sorted(names),
        "category_names": {str(k): v for k, v in names.items()},
    }
    denominator = Denominator(
        config.loss.num_boxes_momentum if config.loss.num_boxes_norm == "ema" else 0.0, world_size
    )
    return RunState(model, average, optimizer, Precision(optim.amp, device.type), denominator, facts)


def set_rates(state: RunState, optim: OptimConfig, num_windows: int) -> None:
    """Set the learning rates of the step to come.

    Steps are counted as if every epoch so far had had `num_windows`: a run that goes on with more images still drops
    its rates at the epochs of the config.
    """
    schedule = Schedule(
        optim.lr_schedule,
        epochs=optim.epochs,
        warmup_steps=optim.warmup_steps,
        drops=optim.lr_drop,
        drop_factor=optim.lr_drop_factor,
        final_factor=optim.lr_final_factor,
        flat_share=optim.lr_flat_share,
    )
    set_learning_rate(state.optimizer, schedule.factor(state.epoch * num_windows + state.window, num_windows))
