"""The loss of DINO: a pure function of outputs, targets and one denominator."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.losses import giou_loss, l1_loss, sigmoid_focal_loss
from models.matcher import Assignment, HungarianMatcher, one_hot_targets
from models.outputs import Denoised, DINOOutput, Prediction
from util.batch import Target

TERMS = ("loss_ce", "loss_bbox", "loss_giou")


class SetCriterion(nn.Module):
    """Match queries to boxes and add up the losses of all predictions.

    Args:
        matcher: assigns queries to boxes, per prediction.
        weights: factor of every term in the total, by name: `loss_ce`, `loss_bbox`, `loss_giou`, each also with the
            suffixes `_0`, `_1`, ..., `_interm`, `_dn`, `_dn_0`, ...; its keys fix those of the result.
        focal_alpha: weight of positives.
        focal_gamma: focusing exponent.
        dn_padding_loss: padding slots of denoising queries count as background.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weights: Mapping[str, float],
        *,
        focal_alpha: float,
        focal_gamma: float,
        dn_padding_loss: bool,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = dict(weights)
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
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
        zero = outputs.last.logits.new_zeros(())
        losses = dict.fromkeys(self.weights, zero)
        matched = [(s, p) for s, p in outputs.matched() if f"loss_ce{s}" in self.weights]
        assignments = self.matcher([p for _, p in matched], targets)
        for (suffix, prediction), assignment in zip(matched, assignments, strict=True):
            losses.update(self._terms(suffix, prediction, assignment, targets, num_boxes))
        if outputs.denoising:
            assignment, counts = self._assign_denoising(outputs.denoising, targets)
            shared = num_boxes * outputs.denoising.groups
            for suffix, prediction in outputs.denoised():
                if f"loss_ce{suffix}" in self.weights:
                    losses.update(self._terms(suffix, prediction, assignment, targets, shared, counts))
        losses["loss"] = torch.stack([w * losses[name] for name, w in self.weights.items()]).sum()
        return losses

    def _terms(
        self,
        suffix: str,
        prediction: Prediction,
        assignment: Assignment,
        targets: Sequence[Target],
        denominator: float,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The three terms of one prediction."""
        starts = torch.tensor([0, *(len(t["labels"]) for t in targets)], device=prediction.logits.device).cumsum(0)
        rows = starts[assignment.image] + assignment.box
        labels = torch.cat([t["labels"] for t in targets])[rows]
        true_boxes = torch.cat([t["boxes"] for t in targets])[rows].to(prediction.boxes.dtype)
        boxes = prediction.boxes[assignment.image, assignment.query]
        wanted = one_hot_targets(prediction, assignment.image, assignment.query, labels)
        ce = sigmoid_focal_loss(prediction.logits, wanted, denominator, self.focal_alpha, self.focal_gamma, counts)
        values = (ce, l1_loss(boxes, true_boxes, denominator), giou_loss(boxes, true_boxes, denominator))
        return {name + suffix: value for name, value in zip(TERMS, values, strict=True)}

    def _assign_denoising(self, denoising: Denoised, targets: Sequence[Target]) -> tuple[Assignment, Tensor | None]:
        """Positives belong to their boxes by construction; also which slots [B, T] carry a loss, None for all."""
        device = denoising.layers[0].logits.device
        groups, slots = denoising.groups, denoising.slots
        filled = torch.arange(slots, device=device) < torch.tensor(
            [[len(t["labels"])] for t in targets], device=device
        )  # [B, K]
        image, group, box = filled[:, None].expand(-1, groups, -1).nonzero(as_tuple=True)
        assignment = Assignment(image, group * 2 * slots + box, box)
        if self.dn_padding_loss:
            return assignment, None
        return assignment, filled[:, None].expand(-1, 2 * groups, -1).flatten(1)


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
    return weights
