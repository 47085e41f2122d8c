"""IoU of boxes in numpy, in the arithmetic of pycocotools, so that thresholds are met to the last digit."""

import numpy as np
from numpy.typing import NDArray


def to_xywh(xyxy: NDArray) -> NDArray[np.float64]:
    """[..., 4] corners -> [..., 4] left, top, width, height."""
    xyxy = np.asarray(xyxy, dtype=np.float64)
    return np.concatenate([xyxy[..., :2], xyxy[..., 2:] - xyxy[..., :2]], axis=-1)


def iou(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """IoU of xyxy boxes [..., 4] and [..., 4], broadcast against each other -> [...]; 0 for boxes without an area."""
    return overlap(to_xywh(a), to_xywh(b), np.array(False))


def overlaps(detections: NDArray, truth: NDArray, is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of [D, 4] and [G, 4] xywh boxes -> [D, G]; with a crowd region, the share of the detection inside it."""
    return overlap(detections[:, None], truth[None], is_crowd[None])


def overlap(detections: NDArray, truth: NDArray, is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The same for boxes [..., 4] and [..., 4] and flags [...], broadcast against each other -> [...]."""
    x, y, width, height = (detections[..., i] for i in range(4))
    left, top, wide, high = (truth[..., i] for i in range(4))
    across = np.minimum(x + width, left + wide) - np.maximum(x, left)
    down = np.minimum(y + height, top + high) - np.maximum(y, top)
    inside = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = width * height
    union = np.where(is_crowd, area, area + wide * high - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)
