"""The losses of boxes and of the image head: pure functions of tensors."""

from torch import Tensor
from torch.nn import functional

from util.detection.boxes import cxcywh_to_xyxy, generalized_iou


def image_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy [B] of the image head: logits [B], targets [B], 1 where an image has a box."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def l1_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Sum of |difference| of matched cxcywh boxes [..., N, 4] -> [...]."""
    return (boxes - targets).abs().sum(dim=(-2, -1))


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Sum of 1 - GIoU of matched cxcywh boxes [..., N, 4] -> [...]."""
    return (1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))).sum(dim=-1)


BOX_LOSSES = {  # of matched boxes, by the name of the term
    "loss_bbox": l1_loss,
    "loss_giou": giou_loss,
}
