"""The loss of DINO: a pure function of outputs, targets and one denominator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.losses.box_losses import giou_loss, image_terms, l1_loss
from models.losses.class_losses import ClassLoss
from models.losses.events import count_events
from models.losses.matcher import Assignment, HungarianMatcher, matched_truth, one_hot_targets
from models.outputs import Denoised, DINOOutput, Prediction
from util.detection.batch import Target, on_device
from util.detection.boxes import cxcywh_to_xyxy, iou

TERMS = ("loss_ce", "loss_bbox", "loss_giou")
IMAGE_TERM = "loss_image"


class SetCriterion(nn.Module):
    """Match queries to boxes and add up the losses of all predictions.

    Args:
        matcher: assigns queries to boxes, per prediction.
        weights: factor of every term in the total, by name: `loss_ce`, `loss_bbox`, `loss_giou`, each also with the
            suffixes `_0`, `_1`, ..., `_interm`, `_dn`, `_dn_0`, ...; `loss_image` for the answer to the whole image.
            Its keys fix those of the result.
        class_loss: what a class score should be.
        dn_padding_loss: padding slots of denoising queries count as background.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weights: Mapping[str, float],
        *,
        class_loss: ClassLoss,
        dn_padding_loss: bool,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = dict(weights)
        self.class_loss = class_loss
        self.dn_padding_loss = dn_padding_loss

    def forward(self, outputs: DINOOutput, targets: Sequence[Target], num_boxes: float) -> dict[str, Tensor]:
        """Every term, and `loss`, their weighted sum.

        Args:
            outputs: of the network.
            targets: per image `labels` [n] and `boxes` [n, 4] cxcywh in [0, 1].
            num_boxes: the denominator of the optimizer step. The terms of its batches add up to those of the step.

        Returns:
            the same keys on every step; terms that nothing contributes to are zero.
        """
        return self.examine(outputs, targets, num_boxes)[0]

    def examine(
        self, outputs: DINOOutput, targets: Sequence[Target], num_boxes: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses as `forward` gives them, and what the log tells besides, both from one matching.

        Returns:
            losses, and the sums of `events.count_events` with `loss_without_boxes` and `loss_with_boxes` added:
            the loss of the images of either kind before the division by `num_boxes`. All are detached.
        """
        losses = dict.fromkeys(self.weights, outputs.last.logits.new_zeros(()))
        matched = self._chosen(outputs.matched())
        assignments = self.matcher(list(matched.values()), targets)
        joint = Assignment(*(torch.stack(c) for c in zip(*(a.columns for a in assignments), strict=True)))
        truth = matched_truth(targets, joint)
        parts = [self._terms(matched, joint, truth, num_boxes)]
        if denoised := self._chosen(outputs.denoised()):
            groups = outputs.denoising.groups
            known, counts = self._assign_denoising(outputs.denoising, targets)
            parts.append(self._terms(denoised, known, matched_truth(targets, known), num_boxes * groups, counts))
        if IMAGE_TERM in self.weights:
            parts.append(self._image_part(outputs.image_logits, targets, num_boxes))
        for part in parts:
            losses.update(part.losses)
        losses["loss"] = torch.stack([part.total for part in parts]).sum()
        class_sums = sum(part.class_sums for part in parts) * num_boxes
        events = count_events(outputs.last, targets, assignments[0], truth[0][0])
        return losses, events | _shares(losses["loss"].detach() * num_boxes, class_sums, targets)

    def _chosen(self, predictions: Iterable[tuple[str, Prediction]]) -> dict[str, Prediction]:
        """Those that have a weight, by suffix."""
        return {suffix: prediction for suffix, prediction in predictions if f"loss_ce{suffix}" in self.weights}

    def _terms(
        self,
        predictions: Mapping[str, Prediction],
        assignment: Assignment,
        truth: tuple[Tensor, Tensor],
        denominator: float,
        counts: Tensor | None = None,
    ) -> _Part:
        """The three terms of P predictions in one pass.

        Args:
            predictions: by suffix, of equal shapes.
            assignment: columns [P, N], or [N] where all have the same.
            truth: labels and boxes of these pairs.
            denominator: what the sums are divided by.
            counts: [B, Q], which queries carry a loss; None: all.
        """
        logits = torch.stack([p.logits for p in predictions.values()])
        boxes = torch.stack([p.boxes for p in predictions.values()])
        layer = torch.arange(len(predictions), device=logits.device)[:, None]
        place = (layer, assignment.image, assignment.query)
        wanted = one_hot_targets(logits, place, truth[0])
        answers = boxes[place]
        true_boxes = truth[1].to(boxes.dtype)
        quality = None
        if self.class_loss.needs_quality:
            overlaps = iou(cxcywh_to_xyxy(answers.detach()), cxcywh_to_xyxy(true_boxes))
            quality = one_hot_targets(logits, place, truth[0], overlaps.to(logits.dtype))
        class_terms = self.class_loss(logits, wanted, quality)
        if counts is not None:
            class_terms = class_terms * counts[..., None]
        by_image = class_terms.sum(dim=(2, 3))  # [P, B]
        values = (by_image.sum(1), l1_loss(answers, true_boxes), giou_loss(answers, true_boxes))
        terms = torch.stack(values) / denominator  # [3, P]
        names = [name + suffix for name in TERMS for suffix in predictions]
        weights = torch.tensor([self.weights[name] for name in names], dtype=terms.dtype).view(terms.shape)
        weights = on_device(weights, terms.device)
        return _Part(
            losses=dict(zip(names, terms.flatten().unbind(), strict=True)),
            total=(terms * weights).sum(),
            class_sums=(by_image.detach() * weights[0, :, None]).sum(0) / denominator,
        )

    def _image_part(self, logits: Tensor, targets: Sequence[Target], denominator: float) -> _Part:
        """The cross-entropy of "has a box" [B]; a sum over images, divided by what all other sums are divided by."""
        has_box = torch.tensor([float(len(t["labels"]) > 0) for t in targets], dtype=logits.dtype)
        terms = image_terms(logits, on_device(has_box, logits.device))
        loss = terms.sum() / denominator
        weight = self.weights[IMAGE_TERM]
        return _Part({IMAGE_TERM: loss}, total=loss * weight, class_sums=terms.detach() * weight / denominator)

    def _assign_denoising(self, denoising: Denoised, targets: Sequence[Target]) -> tuple[Assignment, Tensor | None]:
        """Positives belong to their boxes by construction; also which slots [B, T] carry a loss, None for all."""
        device = denoising.layers[0].logits.device
        groups, slots = denoising.groups, denoising.slots
        filled = np.arange(slots) < np.array([[len(t["labels"])] for t in targets])  # [B, K]
        image, group, box = np.nonzero(np.broadcast_to(filled[:, None], (len(filled), groups, slots)))
        columns = np.stack((image, group * 2 * slots + box, box))
        assignment = Assignment(*on_device(torch.from_numpy(columns), device))
        if self.dn_padding_loss:
            return assignment, None
        return assignment, on_device(torch.from_numpy(np.tile(filled, 2 * groups)), device)


@dataclass(frozen=True)
class _Part:
    """What predictions of one kind bring to the loss."""

    losses: dict[str, Tensor]  # by the name of the term
    total: Tensor  # weighted
    class_sums: Tensor  # [B]: what an image adds to the total without its boxes, detached


def _shares(total: Tensor, class_sums: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Which part of a loss belongs to images with and without boxes; the latter have class terms only."""
    empty = [class_sums[i] for i, t in enumerate(targets) if not len(t["labels"])]
    without = sum(empty, total.new_zeros(()))
    rest = total.new_zeros(()) if len(empty) == len(targets) else total - without
    return {"loss_without_boxes": without, "loss_with_boxes": rest}


def loss_weights(
    *,
    num_layers: int,
    cls: float,
    bbox: float,
    giou: float,
    interm: float,
    interm_boxes: bool,
    aux: bool,
    denoising: bool,
    image: float | None,
) -> dict[str, float]:
    """Weight of every loss term by name; the terms that are not to be computed are absent."""
    base = dict(zip(TERMS, (cls, bbox, giou), strict=True))
    inner = [f"_{i}" for i in range(num_layers - 1)] if aux else []
    suffixes = ["", *inner]
    if denoising:
        suffixes += ["_dn", *(f"_dn{s}" for s in inner)]
    weights = {name + suffix: weight for suffix in suffixes for name, weight in base.items()}
    box_factor = interm if interm_boxes else 0.0
    factors = (interm, box_factor, box_factor)
    weights.update({f"{name}_interm": base[name] * factor for name, factor in zip(TERMS, factors, strict=True)})
    return weights if image is None else {**weights, IMAGE_TERM: image}
