"""Merge detections of several views of an image (test-time augmentation) or of several networks (ensemble).

Weighted boxes fusion is that of R. Solovyev, W. Wang, T. Gabruseva, "Weighted boxes fusion: Ensembling boxes from
different object detection models", Image and Vision Computing 107, 2021 (arXiv 1910.13302), section 3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from util.base.errors import UserError

# `scores` [n], `labels` [n] category ids, `boxes` [n, 4] xyxy pixels of the file; strongest first
ImageDetections = dict[str, Tensor]
Merge = Callable[[Sequence[ImageDetections]], ImageDetections]
Method = Literal["wbf", "nms"]
MOST_CLASSES = 100_000  # larger labels are ids that a class map made
METHODS: tuple[Method, ...] = get_args(Method)


def build_merge(method: Method, iou: float, num_kept: int) -> Merge:
    """Build the function that merges the detections of several views into at most `num_kept`.

    Args:
        method: "wbf" averages boxes of a class that overlap, "nms" keeps the strongest of them.
        iou: overlap beyond which two boxes are the same.
        num_kept: detections of an image, the strongest.

    Raises:
        UserError: the method is unknown, or `iou` is not between 0 and 1.
    """
    if method not in METHODS or not 0 < iou < 1:
        raise UserError(f"merge {method!r} at {iou}: choose {' or '.join(METHODS)}, and an overlap between 0 and 1")
    return partial(_merge, how=fuse_weighted if method == "wbf" else keep_strongest, iou=iou, num_kept=num_kept)


def _merge(
    views: Sequence[ImageDetections], *, how: Callable[..., ImageDetections], iou: float, num_kept: int
) -> ImageDetections:
    return {name: column[:num_kept] for name, column in how(views, iou).items()}


def keep_strongest(views: Sequence[ImageDetections], iou: float) -> ImageDetections:
    """NMS: of boxes of one class that overlap by more than `iou`, keep the strongest with its score."""
    scores, labels, boxes = (torch.cat([view[name] for view in views]) for name in ("scores", "labels", "boxes"))
    # torchvision moves the boxes of each label apart by a multiple of it, in single precision
    is_small = (labels < MOST_CLASSES).all()
    kept = batched_nms(boxes, scores, labels if is_small else labels.unique(return_inverse=True)[1], iou)
    return {"scores": scores[kept], "labels": labels[kept], "boxes": boxes[kept]}


def fuse_weighted(views: Sequence[ImageDetections], iou: float) -> ImageDetections:
    """Weighted boxes fusion.

    From the strongest on, each box joins the fused box of its class that it overlaps most, by more than `iou`, or
    becomes a fused box of its own. A fused box is the mean of its boxes weighted by their scores; its score is the
    mean score times min(T, N) / N for T boxes from N views, so that a box that only one of several views has loses.
    """
    scores, boxes = (torch.cat([view[name] for view in views]).double().numpy() for name in ("scores", "boxes"))
    labels = torch.cat([view["labels"] for view in views]).numpy()
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    labels = labels[order]
    boxes = boxes[order]
    cluster = _clusters(scores, labels, boxes, iou)
    count = np.bincount(cluster)
    first = np.unique(cluster, return_index=True)[1]
    fused_score = np.bincount(cluster, scores) / count * np.minimum(count, len(views)) / len(views)
    weight = np.maximum(scores, np.finfo(float).tiny)  # a score may round to 0
    sums = np.stack([np.bincount(cluster, weight * side) for side in boxes.T], axis=1)
    fused = sums / np.bincount(cluster, weight)[:, None]
    best = np.argsort(-fused_score, kind="stable")
    return {
        "scores": torch.from_numpy(fused_score[best]).to(views[0]["scores"]),
        "labels": torch.from_numpy(labels[first][best]).to(views[0]["labels"]),
        "boxes": torch.from_numpy(fused[best]).to(views[0]["boxes"]),
    }


def _clusters(scores: NDArray, labels: NDArray, boxes: NDArray, iou: float) -> NDArray[np.int64]:
    """[n]: which fused box each box joins; boxes come strongest first."""
    weight = np.maximum(scores, np.finfo(float).tiny)
    # of the fused boxes so far
    total = np.zeros(len(boxes))
    corners = np.zeros((len(boxes), 4))
    label = np.zeros_like(labels)
    cluster = np.zeros(len(boxes), dtype=np.int64)
    num = 0
    for n, box in enumerate(boxes):
        overlap = np.where(label[:num] == labels[n], _iou(corners[:num], box), -1.0)
        place = int(overlap.argmax()) if overlap.max(initial=-1.0) > iou else num
        num = max(num, place + 1)
        label[place] = labels[n]
        cluster[n] = place
        total[place] += weight[n]
        corners[place] += (box - corners[place]) * weight[n] / total[place]
    return cluster


def _iou(boxes: NDArray, box: NDArray) -> NDArray[np.float64]:
    """[N, 4] and [4] -> [N]; in numpy, as the torch one takes three times as long for a box at a time."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    inside = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - inside
    return np.divide(inside, union, out=np.zeros(len(boxes)), where=union > 0)
