"""A trained network as a graph of plain tensors, and the metadata of its file.

B images, Q queries, C classes, N kept pairs of a query and a class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.dino import DINO
from models.outputs import Prediction
from models.postprocess import PostProcess, apply_image_gate
from util.base.errors import UserError
from util.detection.class_map import ClassMap

PostProcessing = Literal["inside", "outside"]
FACTS_KEY = "detector"  # of the metadata of a file
NOTICE = "research use, not a medical device"
OUTPUTS: dict[PostProcessing, tuple[str, ...]] = {
    "inside": ("scores", "labels", "boxes", "tokens"),
    "outside": ("logits", "boxes", "tokens"),
}


@dataclass(frozen=True)
class ExportFacts:
    """The metadata of an exported network's file, which holds it as JSON: all that using it takes."""

    names: dict[int, str]  # category id -> name
    threshold: float | None  # score threshold of the operating point
    post_processing: PostProcessing
    num_select: int
    nms_iou_threshold: float  # above 0: NMS is left to the caller
    category_ids: tuple[int, ...] | None  # indices of the classes that may be predicted, None for all
    scale: int  # the shorter side of an image, pixels
    max_size: int  # the longer side at most, pixels
    height: int | None  # the only height and width that the network takes, pixels; None: any
    width: int | None
    mean: tuple[float, ...]  # red, green, blue on [0, 1]: (pixel - mean) / std
    std: tuple[float, ...]
    config: dict[str, Any]  # all knobs of the model
    opset: int | None = None  # ONNX only
    notice: str = NOTICE
    seal: str | None = None  # ONNX only: `models.export.seal`
    class_ids: tuple[int, ...] = ()  # category ids of the classes 0, 1, ...; empty: the class index is the category id

    def to_json(self) -> str:
        """One JSON object; without `class_ids` where these are the class indices."""
        values = asdict(self)
        return json.dumps(values if self.class_ids else {k: v for k, v in values.items() if k != "class_ids"})

    @classmethod
    def from_json(cls, text: str | None, source: str) -> ExportFacts:
        """The facts that `to_json` wrote.

        Raises:
            UserError: there is no text, or it does not hold them.
        """
        try:
            values = json.loads(text or "")
            values["names"] = {int(k): str(v) for k, v in values["names"].items()}
            for name in ("category_ids", "mean", "std"):
                values[name] = None if values[name] is None else tuple(values[name])
            values["class_ids"] = tuple(values.get("class_ids", ()))
            return cls(**values)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{source}: its metadata has no complete entry {FACTS_KEY!r}; make the file with "
                "scripts/export.py of this version"
            ) from error

    def postprocess(self) -> PostProcess:
        """The post-processing that is left to the caller: all of it, or NMS alone."""
        classes = ClassMap(self.class_ids)
        return PostProcess(self.num_select, self.nms_iou_threshold, self.category_ids, classes=classes)


class PortableNetwork(nn.Module):
    """The network, without the selection of detections.

    Args:
        model: all images of a batch have one size, so nothing is padding.
        image_gate: as in `models.postprocess.apply_image_gate`; always part of the file.
    """

    def __init__(self, model: DINO, image_gate: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.image_gate = image_gate

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W], normalised -> logits [B, Q, C], boxes [B, Q, 4] cxcywh in [0, 1], tokens [B, Q].

        A token is the cell that a query started from, counted over all levels.
        """
        mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
        with recorded_tokens(self.model) as tokens:
            last = apply_image_gate(self.model(images, mask), self.image_gate)
        return last.logits, last.boxes, tokens[0]


class PortableDetector(nn.Module):
    """The network and the selection of detections by score, without NMS.

    Args:
        model: as for `PortableNetwork`.
        postprocess: of which `select_top` is taken.
    """

    def __init__(self, model: DINO, postprocess: PostProcess) -> None:
        super().__init__()
        self.network = PortableNetwork(model, postprocess.image_gate)
        self.postprocess = postprocess

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W], normalised, and the (h, w) of their files, int64 [B, 2], to detections.

        Returns:
            scores [B, N] descending, category ids [B, N], boxes [B, N, 4] xyxy pixels of the file, tokens [B, Q].
        """
        logits, boxes, tokens = self.network(images)
        return *self.postprocess.select_top(Prediction(logits, boxes), sizes), tokens


@contextmanager
def recorded_tokens(model: DINO) -> Iterator[list[Tensor]]:
    """Record the tokens [B, Q] that become queries: each forward pass inside adds its own to the list."""
    seen: list[Tensor] = []
    handle = model.transformer.selection.register_forward_hook(lambda _module, _inputs, chosen: seen.append(chosen))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def forced_tokens(model: DINO, tokens: Tensor) -> Iterator[None]:
    """Make the network start its queries from these tokens [B, Q] instead of selecting them."""
    handle = model.transformer.selection.register_forward_hook(lambda _module, _inputs, _chosen: tokens)
    try:
        yield
    finally:
        handle.remove()


def smallest_side(num_queries: int, strides: list[int]) -> int:
    """The smallest side, in pixels, of a square image whose maps have a cell for each query, and each map several.

    `torch.export` would fix a map of one cell to that size.
    """
    side = max(strides) + 1
    while sum(math.ceil(side / stride) ** 2 for stride in strides) < num_queries:
        side += 1
    return side
