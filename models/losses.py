"""The loss terms: pure functions of tensors, each a sum over boxes or queries divided by one number."""

import torch
from torch import Tensor
from torch.nn import functional

from util.box_ops import cxcywh_to_xyxy, generalized_iou


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, num_boxes: float, alpha: float, gamma: float, counts: Tensor | None = None
) -> Tensor:
    """Focal loss (arXiv 1708.02002, equation 5), summed over everything and divided by `num_boxes`.

    Args:
        logits: [..., B, Q, C].
        targets: [..., B, Q, C], 0 or 1.
        num_boxes: the denominator.
        alpha: weight of the positives; the negatives get 1 - alpha.
        gamma: (1 - p)^gamma damps what is right already.
        counts: [B, Q], False for queries that carry no loss; None: all do.
    """
    terms = sigmoid_focal_terms(logits, targets, alpha, gamma)
    return (terms if counts is None else terms * counts[..., None]).sum() / num_boxes


def sigmoid_focal_terms(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """The terms of that sum, of the shape of `logits`."""
    # z > 0 is right; log p and log (1 - p) of the true side, without ever forming p
    z = torch.where(targets > 0, logits, -logits)
    loss = -functional.logsigmoid(z) * torch.exp(gamma * functional.logsigmoid(-z))
    return loss * (alpha * targets + (1 - alpha) * (1 - targets))


def image_terms(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [B] of what is said of whole images: logits [B], targets [B], 1 where an image has a box."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def l1_loss(boxes: Tensor, targets: Tensor, num_boxes: float = 1.0) -> Tensor:
    """Sum of |difference| of matched cxcywh boxes [..., N, 4], divided by `num_boxes` -> [...]."""
    return (boxes - targets).abs().sum(dim=(-2, -1)) / num_boxes


def giou_loss(boxes: Tensor, targets: Tensor, num_boxes: float = 1.0) -> Tensor:
    """Sum of 1 - GIoU of matched cxcywh boxes [..., N, 4], divided by `num_boxes` -> [...]."""
    return (1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))).sum(dim=-1) / num_boxes
