"""What the last decoder layer gets right and wrong, as sums and counts that may be added up over batches and ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.losses.matcher import Assignment
from models.outputs import Prediction
from util.detection.batch import Target
from util.detection.boxes import cxcywh_to_xyxy, iou

TOP_K = 10  # answers per image among which a true box is looked for
HIT_IOU = 0.5
MIN_PREDICTED_SCORE = 0.3  # a box with this score or a higher one counts as predicted
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
    """Sums over a batch, by the names in `EVENTS`; float32 scalars on the prediction's device.

    Nothing waits for the device: which images have boxes is known from the shapes of the targets.

    Args:
        prediction: of the last decoder layer, logits [B, Q, C] and boxes [B, Q, 4].
        targets: per image `labels` [n] and `boxes` [n, 4] cxcywh in [0, 1].
        assignment: which query answers for which box; N pairs.
        labels: [N], of these boxes.

    Returns:
        `matched` boxes and those of `wrong_class` (the highest logit of the query is of another class); `found_top10`,
        boxes that one of the 10 best queries overlaps at IoU .5, whatever its class; the sums over images of the best
        score, apart for images with and without boxes; `predicted`, queries with a score of .3 or more; `count_error`,
        the sum over images of |predicted - true boxes|.
    """
    scores = prediction.logits.detach().float().sigmoid().amax(dim=-1)  # [B, Q]
    best = scores.amax(dim=1)
    zero = scores.new_zeros(())
    answers = prediction.logits[assignment.image, assignment.query]
    predicted = (scores >= MIN_PREDICTED_SCORE).sum(dim=1).float()
    values = (
        zero + len(assignment.box),
        (answers.argmax(dim=-1) != labels).sum().float(),
        sum((_found(scores[i], prediction.boxes[i], t["boxes"]) for i, t in enumerate(targets)), zero),
        sum((best[i] for i, t in enumerate(targets) if len(t["labels"])), zero),
        sum((best[i] for i, t in enumerate(targets) if not len(t["labels"])), zero),
        predicted.sum(),
        sum(((predicted[i] - len(t["labels"])).abs() for i, t in enumerate(targets)), zero),
    )
    return dict(zip(EVENTS, values, strict=True))


def _found(scores: Tensor, boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """How many of `true_boxes` [n, 4] one of the best `TOP_K` of `boxes` [Q, 4] overlaps, whatever its class."""
    if not len(true_boxes):
        return scores.new_zeros(())
    top = boxes[scores.topk(min(TOP_K, len(scores))).indices].float()
    overlaps = iou(cxcywh_to_xyxy(top)[:, None], cxcywh_to_xyxy(true_boxes.float()))
    return (overlaps.amax(dim=0) >= HIT_IOU).sum().float()
