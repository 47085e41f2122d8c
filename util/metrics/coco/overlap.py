"""How much boxes overlap, in the arithmetic of pycocotools, so that thresholds fall alike to the last digit."""

import numpy as np
from numpy.typing import NDArray


def to_xywh(xyxy: NDArray) -> NDArray[np.float64]:
    """[N, 4] corners -> [N, 4] left, top, width, height."""
    xyxy = np.asarray(xyxy, dtype=np.float64)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def overlaps(found: NDArray, truth: NDArray, is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[D, 4] and [G, 4], x, y, width, height -> [D, G]: IoU; with a crowd the share of the detection inside it."""
    return overlap(found[:, None], truth[None], is_crowd[None])


def overlap(found: NDArray, truth: NDArray, is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The same of [..., 4], [..., 4] and [...], one by one."""
    x, y, width, height = (found[..., i] for i in range(4))
    left, top, wide, high = (truth[..., i] for i in range(4))
    across = np.minimum(x + width, left + wide) - np.maximum(x, left)
    down = np.minimum(y + height, top + high) - np.maximum(y, top)
    inside = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = width * height
    union = np.where(is_crowd, area, area + wide * high - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)
