"""The loss of DINO: a pure function of outputs, targets and one denominator."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.events import count_events
from models.losses import giou_loss, l1_loss, sigmoid_focal_terms
from models.matcher import Assignment, HungarianMatcher, matched_truth, one_hot_targets
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
        return self.examine(outputs, targets, num_boxes)[0]

    def examine(
        self, outputs: DINOOutput, targets: Sequence[Target], num_boxes: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses as `forward` gives them, and what the log tells besides, both from one matching.

        Returns:
            losses, and the sums of `models.events.count_events` with `loss_without_boxes` and `loss_with_boxes` added:
            the loss of the images of either kind before the division by `num_boxes`. All are detached.
        """
        zero = outputs.last.logits.new_zeros(())
        losses = dict.fromkeys(self.weights, zero)
        class_sums = []  # [B] each: what an image adds to the total through its class terms, times num_boxes
        matched = [(s, p) for s, p in outputs.matched() if f"loss_ce{s}" in self.weights]
        assignments = self.matcher([p for _, p in matched], targets)
        truths = [matched_truth(targets, assignment) for assignment in assignments]
        for (suffix, prediction), assignment, truth in zip(matched, assignments, truths, strict=True):
            terms, sums = self._terms(suffix, prediction, assignment, truth, num_boxes)
            losses.update(terms)
            class_sums.append(self.weights[f"loss_ce{suffix}"] * sums)
        if outputs.denoising:
            assignment, counts = self._assign_denoising(outputs.denoising, targets)
            truth, shared = matched_truth(targets, assignment), num_boxes * outputs.denoising.groups
            for suffix, prediction in outputs.denoised():
                if f"loss_ce{suffix}" in self.weights:
                    terms, sums = self._terms(suffix, prediction, assignment, truth, shared, counts)
                    losses.update(terms)
                    class_sums.append(self.weights[f"loss_ce{suffix}"] * sums / outputs.denoising.groups)
        losses["loss"] = torch.stack([w * losses[name] for name, w in self.weights.items()]).sum()
        events = count_events(outputs.last, targets, assignments[0], truths[0][0])
        return losses, events | _shares(losses["loss"].detach() * num_boxes, torch.stack(class_sums).sum(0), targets)

    def _terms(
        self,
        suffix: str,
        prediction: Prediction,
        assignment: Assignment,
        truth: tuple[Tensor, Tensor],
        denominator: float,
        counts: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The three terms of one prediction, and the class term image by image [B] before the division, detached."""
        labels, true_boxes = truth[0], truth[1].to(prediction.boxes.dtype)
        boxes = prediction.boxes[assignment.image, assignment.query]
        wanted = one_hot_targets(prediction, assignment.image, assignment.query, labels)
        focal = sigmoid_focal_terms(prediction.logits, wanted, self.focal_alpha, self.focal_gamma, counts)
        sums = focal.sum(dim=(1, 2))
        values = (
            sums.sum() / denominator,
            l1_loss(boxes, true_boxes, denominator),
            giou_loss(boxes, true_boxes, denominator),
        )
        return {name + suffix: value for name, value in zip(TERMS, values, strict=True)}, sums.detach()

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
