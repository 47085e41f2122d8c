"""Where the decoder looks to find one detection, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.inference.detector import Detector
from models.ops.ms_deform_attn import MSDeformAttn
from util.base.errors import UserError
from util.detection.batch import collate
from util.detection.boxes import cxcywh_to_xyxy


@dataclass(frozen=True)
class LayerTrace:
    """One query in one layer of the decoder. Boxes are xyxy, everything in pixels of the file."""

    reference: NDArray  # [4] the box it starts from
    box: NDArray  # [4] the box it predicts
    score: float  # of the detection's category, after this layer; without the image_gate of the detection
    points: NDArray  # [N, 2] x and y: M heads x L levels x P points
    weights: NDArray  # [N] attention, summing to one over all heads
    levels: NDArray  # [N] level of each point, from 0, the finest, on


@dataclass(frozen=True)
class DetectionTrace:
    """One detection, and how the decoder came to it."""

    name: str  # of the category
    score: float
    rank: int  # 1 is the strongest detection
    num_detections: int
    cells: tuple[float, ...]  # side of a cell of each level, pixels of the file
    layers: tuple[LayerTrace, ...]


def trace_detection(detector: Detector, image: Image.Image, rank: int) -> DetectionTrace:
    """Follow one detection back through the decoder.

    Args:
        detector: of one checkpoint, seen in one way.
        image: RGB.
        rank: of the detection by score, from 1 on.

    Raises:
        UserError: the image has fewer detections.
    """
    network = detector.views[0].network
    batch = collate([detector.views[0].prepare(image)]).to(network.device)
    with torch.inference_mode(), network.precision.autocast(), seen_cross_attention(network.model) as calls:
        outputs = network.model(batch.images, batch.mask)
        found = network.postprocess(outputs, batch.targets)[0]
        seen = [_points(*call) for call in calls]
    if not 1 <= rank <= len(found["scores"]):
        raise UserError(f"--detection {rank}: the image has {len(found['scores'])} detections, ranks from 1 on")
    score, label, box = (found[k][rank - 1] for k in ("scores", "labels", "boxes"))
    frame = torch.tensor([image.width, image.height] * 2, device=box.device)
    answer = network.postprocess.gated_prediction(outputs)
    query = _query_of(answer.logits[0, :, label].sigmoid(), answer.boxes[0], score, box / frame)
    layers = []
    for (references, locations, weights), prediction in zip(seen, outputs.layers, strict=True):
        num_heads, num_levels, num_points = weights.shape[2:]
        levels = torch.arange(num_levels)[None, :, None].expand(num_heads, -1, num_points)
        layers.append(
            LayerTrace(
                reference=_numpy(cxcywh_to_xyxy(references[0, query, 0]) * frame),
                box=_numpy(cxcywh_to_xyxy(prediction.boxes[0, query]) * frame),
                score=float(prediction.logits[0, query, label].sigmoid()),
                points=_numpy(locations[0, query].flatten(0, 2) * frame[:2]),
                weights=_numpy(weights[0, query].flatten() / num_heads),
                levels=levels.flatten().numpy(),
            )
        )
    cells = tuple(image.height / h for h, _ in calls[0][3])
    return DetectionTrace(detector.names[int(label)], float(score), rank, len(found["scores"]), cells, tuple(layers))


Call = tuple[MSDeformAttn, Tensor, Tensor, list[tuple[int, int]]]  # layer, query, references, (h, w) of each level


@contextmanager
def seen_cross_attention(model: nn.Module) -> Iterator[list[Call]]:
    """What each decoder layer's attention to the image is asked: a list that a forward pass fills, layer by layer."""
    calls: list[Call] = []

    def note(module: MSDeformAttn, inputs: tuple[Any, ...]) -> None:
        query, references, _, shapes, _ = inputs
        calls.append((module, query, references, shapes))

    handles = [layer.cross_attn.register_forward_pre_hook(note) for layer in model.transformer.decoder.layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _points(
    module: MSDeformAttn, query: Tensor, references: Tensor, shapes: list[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """References, locations and weights of all queries of a layer."""
    return references, *module.sampling_points(query, references, shapes)


def _query_of(scores: Tensor, boxes: Tensor, score: Tensor, box: Tensor) -> int:
    """Which of the queries, with scores [Q] and boxes [Q, 4] cxcywh, gave this detection; it is the closest one."""
    return int(((scores - score).abs() + (cxcywh_to_xyxy(boxes) - box).abs().sum(-1)).argmin())


def _numpy(tensor: Tensor) -> NDArray:
    return tensor.detach().double().cpu().numpy()
