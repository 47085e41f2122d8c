"""The loss of DINO: a pure function of outputs, targets and one denominator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.losses.box_losses import BOX_LOSSES, image_loss
from models.losses.class_losses import ClassLoss
from models.losses.events import count_events
from models.losses.matcher import Assignment, HungarianMatcher, matched_targets, one_hot_targets
from models.outputs import Denoised, DINOOutput, Prediction
from util.detection.batch import Target, on_device
from util.detection.boxes import cxcywh_to_xyxy, iou

CLASS_TERM = "loss_ce"
IMAGE_TERM = "loss_image"


class SetCriterion(nn.Module):
    """Match queries with boxes and add up the losses of all predictions.

    Args:
        matcher: assigns queries to boxes, per prediction.
        weight_dict: factor of every term in the total, by name: `loss_ce` and those of `BOX_LOSSES`, each also with
            the suffixes `_0`, `_1`, ..., `_interm`, `_dn`, `_dn_0`, ...; `loss_image` of the image head. Its keys fix
            those of the result.
        class_loss: one of `models.losses.class_losses`.
        dn_padding_loss: padding slots of denoising queries count as background.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weight_dict: Mapping[str, float],
        *,
        class_loss: ClassLoss,
        dn_padding_loss: bool,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.weight_dict = dict(weight_dict)
        self.class_loss = class_loss
        self.dn_padding_loss = dn_padding_loss

    def forward(self, outputs: DINOOutput, targets: Sequence[Target], num_boxes: float) -> dict[str, Tensor]:
        """Compute every loss term, and `loss`, their weighted sum.

        Args:
            outputs: of the network.
            targets: per image `labels` [n] and `boxes` [n, 4] cxcywh in [0, 1].
            num_boxes: the denominator of the optimizer step. The terms of its batches add up to those of the step.

        Returns:
            the same keys on every step; terms that nothing contributes to are zero.
        """
        return self.losses_and_events(outputs, targets, num_boxes)[0]

    def losses_and_events(
        self, outputs: DINOOutput, targets: Sequence[Target], num_boxes: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the losses of `forward`, and event counts for the log, from one matching.

        Returns:
            losses, and the sums of `events.count_events` with `loss_without_boxes` and `loss_with_boxes` added:
            the loss of the images of either kind before the division by `num_boxes`. The sums are detached.
        """
        losses = dict.fromkeys(self.weight_dict, outputs.last.logits.new_zeros(()))
        matched = self._weighted(outputs.matched())
        assignments = self.matcher(list(matched.values()), targets)
        stacked = Assignment(*(torch.stack(c) for c in zip(*(a.columns for a in assignments), strict=True)))
        ground_truth = matched_targets(targets, stacked)
        parts = [self._part(matched, stacked, ground_truth, num_boxes)]
        denoised = self._weighted(outputs.denoised())
        if denoised and outputs.denoising:
            known, has_loss = self._assign_denoising(outputs.denoising, targets)
            denominator = num_boxes * outputs.denoising.groups
            parts.append(self._part(denoised, known, matched_targets(targets, known), denominator, has_loss))
        if IMAGE_TERM in self.weight_dict:
            assert outputs.image_logits is not None, f"{IMAGE_TERM} needs a network with an image head"
            parts.append(self._image_part(outputs.image_logits, targets, num_boxes))
        for part in parts:
            losses.update(part.losses)
        losses["loss"] = torch.stack([part.total for part in parts]).sum()
        class_sums = sum((part.class_sums for part in parts[1:]), start=parts[0].class_sums) * num_boxes
        events = count_events(outputs.last, targets, assignments[0], ground_truth[0][0])
        return losses, events | _shares(losses["loss"].detach() * num_boxes, class_sums, targets)

    def _weighted(self, predictions: Iterable[tuple[str, Prediction]]) -> dict[str, Prediction]:
        """The predictions that have a weight, by suffix."""
        return {suffix: prediction for suffix, prediction in predictions if f"loss_ce{suffix}" in self.weight_dict}

    def _part(
        self,
        predictions: Mapping[str, Prediction],
        assignment: Assignment,
        ground_truth: tuple[Tensor, Tensor],
        denominator: float,
        has_loss: Tensor | None = None,
    ) -> _Part:
        """The T terms of P predictions, of classes and of `BOX_LOSSES`, in one pass.

        Args:
            predictions: by suffix, of equal shapes.
            assignment: columns [P, N], or [N] where all have the same.
            ground_truth: labels and boxes of these pairs.
            denominator: what the sums are divided by.
            has_loss: [B, Q], the queries with a class loss; None: all.
        """
        logits = torch.stack([p.logits for p in predictions.values()])
        boxes = torch.stack([p.boxes for p in predictions.values()])
        layer = torch.arange(len(predictions), device=logits.device)[:, None]
        index = (layer, assignment.image, assignment.query)
        labels = ground_truth[0]
        gt_boxes = ground_truth[1].to(boxes.dtype)
        matched_boxes = boxes[index]
        positives = one_hot_targets(logits, index, labels)
        quality = positives
        if self.class_loss.needs_quality:
            overlaps = iou(cxcywh_to_xyxy(matched_boxes.detach()), cxcywh_to_xyxy(gt_boxes))
            quality = one_hot_targets(logits, index, labels, overlaps.to(logits.dtype))
        class_terms = self.class_loss(logits, positives, quality)
        if has_loss is not None:
            class_terms = class_terms * has_loss[..., None]
        by_image = class_terms.sum(dim=(2, 3))  # [P, B]
        box_losses = {name: loss for name, loss in BOX_LOSSES.items() if name in self.weight_dict}
        values = [by_image.sum(1), *(loss(matched_boxes, gt_boxes) for loss in box_losses.values())]
        terms = torch.stack(values) / denominator  # [T, P]
        names = [name + suffix for name in (CLASS_TERM, *box_losses) for suffix in predictions]
        weights = torch.tensor([self.weight_dict[name] for name in names], dtype=terms.dtype).view(terms.shape)
        weights = on_device(weights, terms.device)
        return _Part(
            losses=dict(zip(names, terms.flatten().unbind(), strict=True)),
            total=(terms * weights).sum(),
            class_sums=(by_image.detach() * weights[0, :, None]).sum(0) / denominator,
        )

    def _image_part(self, logits: Tensor, targets: Sequence[Target], denominator: float) -> _Part:
        """The loss of the image head [B]: a sum over images, divided by the denominator of all other sums."""
        has_box = torch.tensor([float(len(t["labels"]) > 0) for t in targets], dtype=logits.dtype)
        terms = image_loss(logits, on_device(has_box, logits.device))
        loss = terms.sum() / denominator
        weight = self.weight_dict[IMAGE_TERM]
        return _Part({IMAGE_TERM: loss}, total=loss * weight, class_sums=terms.detach() * weight / denominator)

    def _assign_denoising(self, denoising: Denoised, targets: Sequence[Target]) -> tuple[Assignment, Tensor | None]:
        """Match positives with their boxes by construction; also the slots [B, T] with a class loss, None for all."""
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
    """The losses of predictions of one kind: matched, denoising, or of the image head."""

    losses: dict[str, Tensor]  # by the name of the term
    total: Tensor  # weighted
    class_sums: Tensor  # [B]: weighted class loss of each image, detached


def _shares(total: Tensor, class_sums: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Split a loss by images with and without boxes; the latter have class terms only."""
    empty = [class_sums[i] for i, t in enumerate(targets) if not len(t["labels"])]
    without = sum(empty, total.new_zeros(()))
    rest = total.new_zeros(()) if len(empty) == len(targets) else total - without
    return {"loss_without_boxes": without, "loss_with_boxes": rest}


def build_weight_dict(
    *,
    num_layers: int,
    base: Mapping[str, float],
    interm: float,
    interm_boxes: bool,
    aux: bool,
    denoising: bool,
    image: float | None,
) -> dict[str, float]:
    """The weight of every loss term by name, from those of the last layer; terms without an entry are not computed."""
    inner = [f"_{i}" for i in range(num_layers - 1)] if aux else []
    suffixes = ["", *inner]
    if denoising:
        suffixes += ["_dn", *(f"_dn{s}" for s in inner)]
    weights = {name + suffix: weight for suffix in suffixes for name, weight in base.items()}
    factors = {CLASS_TERM: interm, **dict.fromkeys(BOX_LOSSES, interm if interm_boxes else 0.0)}
    weights.update({f"{name}_interm": weight * factors[name] for name, weight in base.items()})
    return weights if image is None else {**weights, IMAGE_TERM: image}
