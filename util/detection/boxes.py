"""Conversion and overlap of boxes in torch. cxcywh is centre and size, xyxy two corners."""

from collections.abc import Sequence

import torch
from torch import Tensor

IOU_EPS = 1e-6  # in normalised units, as in the official code: it matters for boxes below about 1 % of the side


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] -> [..., 4]."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] -> [..., 4]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes [..., 4] and [..., 4], broadcast against each other -> [...]."""
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return inter / (_area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter + IOU_EPS)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (arXiv 1902.09630) of xyxy boxes [..., 4] and [..., 4], broadcast against each other -> [...]."""
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return inter / (union + IOU_EPS) - (hull - union) / (hull + IOU_EPS)


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height


def touches(box: Sequence[float], boxes: Tensor) -> bool:
    """Whether a box overlaps one of the boxes [n, 4], all x1, y1, x2, y2; a common edge is no overlap."""
    left, top, right, bottom = box
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return bool(((x1 < right) & (left < x2) & (y1 < bottom) & (top < y2)).any())
