"""The optimizer's groups and their learning rates."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

WITHOUT_DECAY = {"rest": "plain", "backbone": "backbone plain", "slow": "slow plain"}
BIAS_TABLE = "relative_position_bias_table"  # of Swin: biases in two dimensions


def build_optimizer(
    model: nn.Module,
    *,
    kind: Literal["default", "ddetr_in_mmdet", "large_wd"],
    lr: float,
    lr_backbone: float,
    lr_linear_proj_mult: float,
    weight_decay: float,
    decays_vectors: bool = True,
    is_fused: bool = False,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with the official groups.

    Each group carries `base_lr`, which `set_learning_rate` scales.

    Args:
        model: the network.
        kind: "default": backbone and the rest; "ddetr_in_mmdet": backbone, reference points and sampling offsets, the
            rest; "large_wd": as default, norms and biases apart and without decay.
        lr: of all but the backbone.
        lr_backbone: of names with "backbone" (`default`, `large_wd`) or "backbone.0" (`ddetr_in_mmdet`).
        lr_linear_proj_mult: factor on `lr` for reference points and sampling offsets in `ddetr_in_mmdet`.
        weight_decay: of every group, but for names with "norm" or "bias" in `large_wd`.
        decays_vectors: False: norms, biases and all else with one dimension have no weight decay, and Swin's tables of
            position biases have none; these form groups of their own.
        is_fused: one kernel for a step instead of one for each operation; the same up to rounding.
    """
    settings = {
        "rest": (lr, weight_decay),
        "backbone plain": (lr_backbone, 0.0),
        "backbone": (lr_backbone, weight_decay),
        "slow": (lr * lr_linear_proj_mult, weight_decay),
        "plain": (lr, 0.0),
        "slow plain": (lr * lr_linear_proj_mult, 0.0),
    }
    members: dict[str, list[nn.Parameter]] = {label: [] for label in settings}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            label = group_of(name, kind)
            if not decays_vectors and (parameter.ndim < 2 or name.endswith(BIAS_TABLE)):
                label = WITHOUT_DECAY.get(label, label)
            members[label].append(parameter)
    groups = [
        {"params": members[label], "label": label, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for label, (rate, decay) in settings.items()
        if members[label]
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=is_fused)


def group_of(name: str, kind: str) -> str:
    """The label of a parameter's group; the patterns are the official ones."""
    if kind == "ddetr_in_mmdet":
        if "backbone.0" in name:
            return "backbone"
        return "slow" if "reference_points" in name or "sampling_offsets" in name else "rest"
    is_plain = kind == "large_wd" and ("norm" in name or "bias" in name)
    if "backbone" in name:
        return "backbone plain" if is_plain else "backbone"
    return "plain" if is_plain else "rest"


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates of the rest (`lr`) and of the backbone (`lr_backbone`), as they are now."""
    rates = {group["label"]: group["lr"] for group in optimizer.param_groups}
    return {"lr": rates["rest"], **({"lr_backbone": rates["backbone"]} if "backbone" in rates else {})}


def trainable_parts(model: nn.Module) -> dict[str, list[int]]:
    """Parameters that are trained, and all, of each part of the network; the heads counted by themselves."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        heads = [w for w in words if w.endswith(("class_embed", "bbox_embed"))]
        part = heads[0] if heads else words[1] if words[0] == "transformer" else words[0]
        count = counts.setdefault(part, [0, 0])
        count[0] += parameter.numel() * parameter.requires_grad
        count[1] += parameter.numel()
    return counts


@dataclass(frozen=True)
class Schedule:
    """The factor on every learning rate: a linear warm-up, and after it drops by epoch or a cosine."""

    kind: Literal["multistep", "cosine", "flat_cosine"] = "multistep"
    epochs: int = 1  # at which a cosine ends
    warmup_steps: int = 0
    drops: tuple[int, ...] = ()  # multistep: epochs
    drop_factor: float = 0.1
    final_factor: float = 0.0  # what a cosine ends at
    flat_share: float = 0.0  # flat_cosine: the share of the training before the cosine

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Of an optimizer step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.kind == "multistep":
            epoch = step // steps_per_epoch
            return warmup * self.drop_factor ** sum(epoch >= drop for drop in self.drops)
        end = self.epochs * steps_per_epoch
        flat = self.flat_share * end if self.kind == "flat_cosine" else 0.0
        start = max(float(self.warmup_steps), flat)
        done = min(1.0, max(0.0, (step - start) / (end - start))) if end > start else 0.0
        return warmup * (self.final_factor + (1.0 - self.final_factor) * (1.0 + math.cos(math.pi * done)) / 2.0)
