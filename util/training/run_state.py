"""The state of a training, saved to a checkpoint and restored from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch

from util import __version__
from util.config import Change, Config, differences, flatten
from util.config.schema import BEFORE, OptimConfig
from util.detection.class_map import IDENTITY, ClassMap
from util.training.checkpoints.auto_values import MAP_KEY, recorded_map
from util.training.checkpoints.categories import other_classes, require_same_classes, rows_by_name
from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.file import save
from util.training.checkpoints.moments import require_moments
from util.training.checkpoints.schema import is_count
from util.training.checkpoints.start import Start
from util.training.checkpoints.weights import Fit, load_strictly, load_what_fits, weights_of
from util.training.denominator import Denominator
from util.training.ema import Network, WeightAverage
from util.training.optimizer import Schedule, build_optimizer, set_learning_rate, trainable_parts
from util.training.precision import Precision
from util.training.step_size import StepSize

POSITION = ("epoch", "window", "step", "skipped", "collected", "rows", "judged", "best", "operating_point")


@dataclass
class RunState(Generic[Network]):
    """What changes in a training. Learning rates and randomness follow from the position, so they are not kept."""

    model: Network
    average: WeightAverage[Network]
    optimizer: torch.optim.Optimizer
    precision: Precision
    denominator: Denominator
    facts: Mapping[str, Any]  # plain values that do not change: config, cut, num_images, category_ids, class_ids ...
    epoch: int = 0  # epochs done
    window: int = 0  # windows done in the current epoch
    step: int = 0  # windows done since the start: optimizer steps, skipped ones included
    skipped: int = 0  # steps skipped because they were not finite
    collected: list[dict[str, Any]] = field(default_factory=list)  # by rank: sums of the log over the current epoch
    rows: int = 0  # bytes of log.jsonl that belong to the steps done
    judged: int = 0  # epochs done at the last evaluation
    best: dict[str, Any] = field(default_factory=dict)  # epoch, and value of the metric it is best at
    operating_point: dict[str, Any] = field(default_factory=dict)  # of the last evaluation: rule, target, threshold
    attention: str = ""  # the backend that computes deformable attention; others round differently

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {
            **self.facts,
            "version": __version__,
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
        """Columns of the row of a start: position, facts, and which parameters are trained."""
        position = {"epoch": self.epoch, "step": self.step}
        return {**position, **self.facts, "trainable": trainable_parts(self.model)}

    @property
    def place(self) -> tuple[int, int, int]:
        """Epoch, window in it, and step: where the training stands."""
        return (self.epoch, self.window, self.step)

    @property
    def best_epoch(self) -> str:
        """The best epoch so far, for the log."""
        return "best {metric}: {value:.4f}, epoch {epoch}".format(**self.best) if self.best else "no best epoch"

    def resume(self, content: Mapping[str, Any], path: Path) -> str:
        """Resume from the content of a checkpoint; what has changed since, for the log.

        Raises:
            CheckpointError: it is of another model, data or number of images per step, or holds no position.
        """
        needed = ("model", "optimizer", "config", "cut", *POSITION)
        lacking = sorted(name for name in needed if content.get(name) is None)
        if lacking:
            raise CheckpointError(
                f"{path}: cannot be resumed, it lacks {', '.join(lacking)}; use --pretrain_model_path for its weights"
            )
        changes = differences({**BEFORE, **content["config"]}, self.facts["config"])
        changes = self._check_depth(changes, path)
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

    def load_pretrained(self, path: Path) -> Fit:
        """Load the weights of another training, as far as they fit."""
        content = load(path)
        rows = rows_by_name(content, self.names, recorded_map(self.facts))
        classes = other_classes(content, self.names) if rows is None else {}
        found = weights_of(content, path, self.model.state_dict())
        return load_what_fits(self.model, found.tensors, path, classes, [*found.notes, *found.inexact], rows)

    def _check_model(self, changes: list[Change], path: Path) -> None:
        """A checkpoint resumes only the model it was made of."""
        refused = [change for change in changes if change.may_change == "never"]
        if refused:
            raise CheckpointError(
                f"{path}: is a checkpoint of another model ({', '.join(map(_mismatch, refused))}). Use its config, "
                "another --output_dir, or --pretrain_model_path to take over what fits"
            )

    def _check_depth(self, changes: list[Change], path: Path) -> list[Change]:
        """With another depth all 16-bit images have other grey values; "auto" means that there are none."""
        depths = [change for change in changes if change.knob == "image_depth"]
        for change in depths:
            if "auto" not in (change.before, change.after):
                raise CheckpointError(
                    f"{path}: was trained on 16-bit images read as {change.before} bits, now they are read as "
                    f"{change.after}. --options image_depth={change.before} keeps its rule; for another one start "
                    "a new training from its weights: another --output_dir and --pretrain_model_path"
                )
        return [change for change in changes if change not in depths]

    def _check_categories(self, content: Mapping[str, Any], path: Path) -> None:
        """With other categories the same weights would select and predict other classes."""
        recorded = content.get("category_ids")
        current = self.facts["category_ids"]
        is_mapped_alike = content.get(MAP_KEY) == self.facts.get(MAP_KEY)
        if recorded is not None and (recorded != current or not is_mapped_alike):
            raise CheckpointError(
                f"{path}: was trained on the categories {recorded}, the data has {current}. Use its data, another "
                "--output_dir, or --pretrain_model_path to take over what fits"
            )
        way_out = ", or start a new training from its weights: another --output_dir and --pretrain_model_path"
        require_same_classes(content, self.names, path, way_out)

    def _check_steps(self, content: Mapping[str, Any], changes: list[Change], path: Path) -> None:
        """A position tells which images are done only while a step takes the same number of the same images."""
        recorded = StepSize(*content["cut"])
        current = StepSize(*self.facts["cut"])
        if recorded.images_per_step != current.images_per_step:
            raise CheckpointError(
                f"{path}: was trained with {recorded} images per step, this would be {current}. "
                f"{current.how_to_match(recorded)}, or start a new training from its weights: another --output_dir and "
                "--pretrain_model_path"
            )
        refused = [change for change in changes if change.may_change == "between epochs"]
        images = Change("training images", content.get("num_images"), self.facts["num_images"])
        if images.before != images.after:
            refused = [images, *refused, *(c for c in changes if c.may_change == "with as many images")]
        if content["window"] and refused:
            raise CheckpointError(
                f"{path}: stands inside epoch {content['epoch']}, of which it has done {content['window']} steps, with "
                f"{' and '.join(map(_mismatch, refused))}. Resume with these, or take a checkpoint of the end of an "
                "epoch"
            )

    def _changes(self, content: Mapping[str, Any], changes: list[Change]) -> str:
        """The changes since the checkpoint, for the log."""
        changed = [str(change) for change in changes if change.may_change != "at the same step size"]
        text = f"; changed since: {', '.join(changed)}" if changed else ""
        attention = content.get("attention") or self._older_attention({**BEFORE, **content["config"]}["attn_backend"])
        if attention != self.attention:
            text += f"; deformable attention was computed by {attention}, now by {self.attention}: the same to rounding"
        before = StepSize(*content["cut"])
        now = StepSize(*self.facts["cut"])
        return text + (f"; images per step were {before}, now {now}: the same training" if before != now else "")

    def _older_attention(self, wish: str) -> str:
        """The attention backend of a checkpoint that does not name it, on a device as the present one."""
        is_on_cpu = next(self.model.parameters()).device.type == "cpu"
        return ("sparse" if is_on_cpu else "triton") if wish == "auto" else wish

    def _restore_optimizer(self, recorded: Mapping[str, Any], path: Path) -> None:
        """Take over the moments and the rates of the last step; all other settings are those of the config in force.

        They are set before the moments are loaded: `fused` decides on which device PyTorch places the step counts.
        """
        current = self.optimizer.state_dict()["param_groups"]
        require_moments(self.optimizer, recorded, path)
        kept = ("params", "lr")
        groups = [{**a, **{k: b[k] for k in kept}} for a, b in zip(current, recorded["param_groups"], strict=True)]
        self.optimizer.load_state_dict({"state": recorded["state"], "param_groups": groups})

    def load_position(self, content: Mapping[str, Any]) -> None:
        """Take over epoch, step and operating point of a checkpoint to evaluate, as far as it has them."""
        self.epoch, self.step = (content[key] if is_count(content.get(key)) else 0 for key in ("epoch", "step"))
        self.operating_point = content.get("operating_point") or {}

    def finish_step(self) -> None:
        """Count an optimizer step as done, also one that was skipped."""
        self.step += 1
        self.window += 1

    def finish_epoch(self) -> None:
        """Count an epoch as done."""
        self.epoch += 1
        self.window = 0
        self.collected = []

    def record_evaluation(self, metric: str, value: float | None) -> bool:
        """Record that the weights were evaluated; whether they are the best so far by this metric."""
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


def load_start(state: RunState[Any], start: Start, load_backbone: Callable[[], object]) -> str:
    """Load what a training starts from into its state; the message for the log.

    Args:
        state: of the training, freshly built.
        start: where it starts from.
        load_backbone: loads the weights of the backbone, where there is no checkpoint.
    """
    if start.path is not None and start.kind != "pretrain":
        changes = state.resume(start.resumed, start.path)
        return f"start: {start.reason}, at epoch {state.epoch}, step {state.step}{changes}"
    loaded = load_backbone() if start.path is None else state.load_pretrained(start.path)
    state.average.copy_from(state.model)
    return f"start: {start.reason}; {loaded}"


def build_state(
    config: Config,
    names: Mapping[int, str],
    num_images: int,
    model: Network,
    device: torch.device,
    world_size: int,
    classes: ClassMap = IDENTITY,
) -> RunState[Network]:
    """Build optimizer, average and precision around a model; `names` are the data's categories by id."""
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
        **({MAP_KEY: list(classes.ids)} if classes.ids else {}),
    }
    denominator = Denominator(
        config.loss.num_boxes_momentum if config.loss.num_boxes_norm == "ema" else 0.0, world_size
    )
    return RunState(model, average, optimizer, Precision(optim.amp, device.type), denominator, facts)


def set_rates(state: RunState[Any], optim: OptimConfig, num_windows: int) -> None:
    """Set the learning rates of the next step.

    Steps are counted as if every epoch so far had had `num_windows`: a run that resumes with more images still drops
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
