"""From the network's output to detections in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from models.outputs import DINOOutput, Prediction
from util.detection.batch import Target
from util.detection.boxes import cxcywh_to_xyxy
from util.detection.class_map import IDENTITY, ClassMap


class PostProcess(nn.Module):
    """Keep the (query, class) pairs of each image with the highest scores.

    Args:
        num_select: pairs kept per image.
        nms_iou_threshold: class-agnostic NMS above this IoU; 0 switches it off.
        category_ids: indices of the classes that may be predicted, None for all.
        image_gate: see `apply_image_gate`.
        classes: the category ids of the classes. Here, and only here, class indices become category ids.
    """

    category_ids: Tensor | None
    class_ids: Tensor | None

    def __init__(
        self,
        num_select: int,
        nms_iou_threshold: float,
        category_ids: tuple[int, ...] | None,
        image_gate: float = 0.0,
        classes: ClassMap = IDENTITY,
    ) -> None:
        super().__init__()
        self.image_gate = image_gate
        self.num_select = num_select
        self.nms_iou_threshold = nms_iou_threshold
        ids = None if category_ids is None else torch.tensor(category_ids)
        self.register_buffer("category_ids", ids, persistent=False)
        self.classes = classes
        class_ids = torch.tensor(classes.ids) if classes.ids else None
        self.register_buffer("class_ids", class_ids, persistent=False)

    @torch.no_grad()
    def forward(self, outputs: DINOOutput, targets: Sequence[Target] | Tensor) -> list[dict[str, Tensor]]:
        """Detections per image, by descending score.

        Args:
            outputs: of the network.
            targets: per image `orig_size` [2], (h, w) pixels of the file; or these sizes alone as a tensor [B, 2].

        Returns:
            per image `scores` [n], `labels` [n] category ids, `boxes` [n, 4] xyxy pixels of the file, not clipped.
        """
        sizes = targets if isinstance(targets, Tensor) else torch.stack([t["orig_size"] for t in targets])
        return [
            self.apply_nms(*image)
            for image in zip(*self.select_top(self.gated_prediction(outputs), sizes), strict=True)
        ]

    def gated_prediction(self, outputs: DINOOutput) -> Prediction:
        """The last layer's prediction, with the image gate."""
        return apply_image_gate(outputs, self.image_gate)

    def select_top(self, prediction: Prediction, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of each image with the highest scores, in descending order, before NMS.

        Args:
            prediction: as from `gated_prediction`.
            sizes: [B, 2], (h, w) pixels of the files.

        Returns:
            scores [B, n], category ids [B, n], boxes [B, n, 4] xyxy pixels of the files, not clipped.
        """
        scores = prediction.logits.sigmoid()
        if self.category_ids is not None:
            scores = scores[..., self.category_ids]
        num_queries, num_classes = scores.shape[1:]
        scores, index = scores.flatten(1).topk(min(self.num_select, num_queries * num_classes), dim=1)
        labels = index % num_classes
        if self.category_ids is not None:
            labels = self.category_ids[labels]
        if self.class_ids is not None:
            labels = self.class_ids[labels]
        query = torch.div(index, num_classes, rounding_mode="floor")
        boxes = cxcywh_to_xyxy(prediction.boxes).gather(1, query[..., None].expand(-1, -1, 4))
        return scores, labels, boxes * sizes[:, [1, 0, 1, 0]].to(boxes)[:, None]

    def apply_nms(self, scores: Tensor, labels: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """NMS over one image's part of what `select_top` gives."""
        if self.nms_iou_threshold > 0:
            kept = nms(boxes, scores, self.nms_iou_threshold)
            scores = scores[kept]
            labels = labels[kept]
            boxes = boxes[kept]
        return {"scores": scores, "labels": labels, "boxes": boxes}


def apply_image_gate(outputs: DINOOutput, gate: float) -> Prediction:
    """The last layer's prediction, with scores multiplied by (score that the image has any box)^gate.

    That lowers the scores in images without a lesion. The product is returned as logits, computed from logarithms.
    """
    last = outputs.last
    if gate == 0.0:
        return last
    assert outputs.image_logits is not None, "image_gate needs a network with an image head"
    log_image_score = functional.logsigmoid(outputs.image_logits)[:, None, None]
    log_score = functional.logsigmoid(last.logits) + gate * log_image_score
    return Prediction(log_score - torch.log(-torch.expm1(log_score)), last.boxes)
