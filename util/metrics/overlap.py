"""How much boxes overlap, in the arithmetic of pycocotools, so that thresholds fall alike to the last digit."""

import numpy as np
from numpy.typing import NDArray


def to_xywh(xyxy: NDArray) -> NDArray[np.float64]:
    """[N, 4] corners -> [N, 4] left, top, width, height."""
    xyxy = np.asarray(xyxy, dtype=np.float64)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def overlaps(found: NDArray, truth: NDArray, is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[D, 4] and [G, 4], x, y, width, height -> [D, G]: IoU; with a crowd the share of the detection inside it."""
    d, g = found[:, None], truth[None]
    sides = np.minimum(d[..., :2] + d[..., 2:], g[..., :2] + g[..., 2:]) - np.maximum(d[..., :2], g[..., :2])
    inside = np.where((sides > 0).all(axis=-1), sides[..., 0] * sides[..., 1], 0.0)
    area, area_truth = d[..., 2] * d[..., 3], g[..., 2] * g[..., 3]
    union = np.where(is_crowd[None], np.broadcast_to(area, inside.shape), area + area_truth - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)
