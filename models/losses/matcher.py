"""Hungarian matching: the one-to-one assignment of queries to boxes with the least cost (DETR, equation 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.outputs import Prediction
from util.detection.batch import Target, on_device
from util.detection.boxes import cxcywh_to_xyxy, generalized_iou

COST_NOT_FINITE = -1e9  # cheaper than anything
PROBABILITY_EPS = 1e-8


@dataclass(frozen=True)
class Assignment:
    """Matched pairs of queries and boxes over a batch: three columns, a row per pair; [P, N] for P predictions."""

    image: Tensor  # [N] index into the batch
    query: Tensor  # [N]
    box: Tensor  # [N] index into the image's boxes

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three columns."""
        return self.image, self.query, self.box


@dataclass(frozen=True)
class HungarianMatcher:
    """Weights of the matching cost, and the matching."""

    cost_class: float
    cost_bbox: float
    cost_giou: float
    focal_alpha: float
    focal_gamma: float

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> list[Assignment]:
        """Match each prediction of a batch on its own, with one copy from the device for all of them.

        Args:
            predictions: P of them, logits [B, Q, C] and boxes [B, Q, 4].
            targets: per image `labels` [n] and `boxes` [n, 4] cxcywh in [0, 1].

        Returns:
            P assignments.

        A prediction that is not finite is matched before all others, so that the loss is not finite either, and all
        ranks skip the step. An error here would leave the other ranks waiting for this one.
        """
        counts = [len(t["labels"]) for t in targets]
        device = predictions[0].logits.device
        if not any(counts):  # most batches of X-rays: nothing to match, and no synchronisation with the device
            empty = Assignment(*torch.empty(3, 0, dtype=torch.int64, device=device))
            return [empty] * len(predictions)
        logits = torch.stack([p.logits for p in predictions])
        boxes = torch.stack([p.boxes for p in predictions])
        costs = [
            self.cost_matrix(logits[:, i], boxes[:, i], t["labels"], t["boxes"]).flatten()
            for i, t in enumerate(targets)
        ]
        flat = torch.cat(costs).cpu().numpy()
        flat[~np.isfinite(flat)] = COST_NOT_FINITE
        blocks = np.split(flat, np.cumsum([c.numel() for c in costs])[:-1])
        per_image = [b.reshape(len(logits), logits.shape[2], n) for b, n in zip(blocks, counts, strict=True)]
        pairs = np.stack([assign([image[p] for image in per_image]) for p in range(len(predictions))])
        return [Assignment(*columns) for columns in on_device(torch.from_numpy(pairs), device)]

    def cost_matrix(self, logits: Tensor, boxes: Tensor, labels: Tensor, gt_boxes: Tensor) -> Tensor:
        """The cost of matching each query with each box.

        Args:
            logits: [..., Q, C].
            boxes: [..., Q, 4] cxcywh in [0, 1].
            labels: [N].
            gt_boxes: [N, 4] cxcywh in [0, 1].

        Returns:
            [..., Q, N]
        """
        alpha, gamma = self.focal_alpha, self.focal_gamma
        p = logits.sigmoid()[..., labels]
        positive = alpha * (1 - p) ** gamma * -torch.log(p + PROBABILITY_EPS)
        negative = (1 - alpha) * p**gamma * -torch.log(1 - p + PROBABILITY_EPS)
        gt_boxes = gt_boxes.to(boxes.dtype)
        distance = (boxes[..., :, None, :] - gt_boxes).abs().sum(-1)
        overlap = generalized_iou(cxcywh_to_xyxy(boxes)[..., :, None, :], cxcywh_to_xyxy(gt_boxes))
        return self.cost_bbox * distance + self.cost_class * (positive - negative) - self.cost_giou * overlap


def assign(costs: Sequence[np.ndarray]) -> np.ndarray:
    """Solve each image's cost matrix [Q, n]; rows image, query and box [3, N], in the order of the queries."""
    pairs = [linear_sum_assignment(cost) for cost in costs]
    image = np.repeat(np.arange(len(pairs)), [len(query) for query, _ in pairs])
    query = np.concatenate([query for query, _ in pairs])
    box = np.concatenate([box for _, box in pairs])
    return np.stack((image, query, box)).astype(np.int64)


def matched_targets(targets: Sequence[Target], assignment: Assignment) -> tuple[Tensor, Tensor]:
    """Labels [..., N] and boxes [..., N, 4] of the matched ground truth, for columns [..., N]."""
    starts = torch.tensor([0, *(len(t["labels"]) for t in targets)]).cumsum(0)
    rows = on_device(starts, assignment.box.device)[assignment.image] + assignment.box
    return torch.cat([t["labels"] for t in targets])[rows], torch.cat([t["boxes"] for t in targets])[rows]


def one_hot_targets(logits: Tensor, index: tuple[Tensor, ...], labels: Tensor, values: Tensor | float = 1.0) -> Tensor:
    """Zeros like `logits` [..., C], with `values` at the class of each pair; `index` covers all axes but the last."""
    target = torch.zeros_like(logits)
    entries = (*index, labels)
    target[entries] = values
    return target
