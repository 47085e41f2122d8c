"""Event counts of the last decoder layer, right and wrong predictions, that add up over batches and ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.losses.matcher import Assignment
from models.outputs import Prediction
from util.detection.batch import Target
from util.detection.boxes import cxcywh_to_xyxy, iou

TOP_K = 10  # queries per image, by score, that may hit a ground-truth box
HIT_IOU = 0.5
MIN_PREDICTED_SCORE = 0.3  # score threshold from which a query counts as predicted
EVENTS = (
    "matched",
    "wrong_class",
    "found_top10",
    "best_score_with_boxes",
    "best_score_without_boxes",
    "predicted",
    "count_error",
)


@torch.no_grad()
def count_events(
    prediction: Prediction, targets: Sequence[Target], assignment: Assignment, labels: Tensor
) -> dict[str, Tensor]:
    """Count events over a batch, by the names in `EVENTS`; float32 scalars on the prediction's device.

    No synchronisation with the device: which images have boxes is known from the shapes of the targets.

    Args:
        prediction: of the last decoder layer, logits [B, Q, C] and boxes [B, Q, 4].
        targets: per image `labels` [n] and `boxes` [n, 4] cxcywh in [0, 1].
        assignment: N matched pairs of queries and boxes.
        labels: [N], of these boxes.

    Returns:
        `matched` boxes and those of `wrong_class` (the highest logit of the query is of another class); `found_top10`,
        class-agnostic recall at IoU .5 of the 10 queries with the highest scores, as a number of boxes; the sums over
        images of the best score, separately for images with and without boxes; `predicted`, queries with a score of .3
        or more; `count_error`, the sum over images of |predicted - ground-truth boxes|.
    """
    scores = prediction.logits.detach().float().sigmoid().amax(dim=-1)  # [B, Q]
    best = scores.amax(dim=1)
    zero = scores.new_zeros(())
    matched_logits = prediction.logits[assignment.image, assignment.query]
    predicted = (scores >= MIN_PREDICTED_SCORE).sum(dim=1).float()
    values = (
        zero + len(assignment.box),
        (matched_logits.argmax(dim=-1) != labels).sum().float(),
        sum((_num_hit(scores[i], prediction.boxes[i], t["boxes"]) for i, t in enumerate(targets)), zero),
        sum((best[i] for i, t in enumerate(targets) if len(t["labels"])), zero),
        sum((best[i] for i, t in enumerate(targets) if not len(t["labels"])), zero),
        predicted.sum(),
        sum(((predicted[i] - len(t["labels"])).abs() for i, t in enumerate(targets)), zero),
    )
    return dict(zip(EVENTS, values, strict=True))


def _num_hit(scores: Tensor, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """How many of `gt_boxes` [n, 4] are hit by one of `boxes` [Q, 4] with the `TOP_K` highest scores."""
    if not len(gt_boxes):
        return scores.new_zeros(())
    top = boxes[scores.topk(min(TOP_K, len(scores))).indices].float()
    overlaps = iou(cxcywh_to_xyxy(top)[:, None], cxcywh_to_xyxy(gt_boxes.float()))
    return (overlaps.amax(dim=0) >= HIT_IOU).sum().float()
