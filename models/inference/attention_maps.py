"""Visualisation of the decoder's attention: where each layer samples the image for one detection.

The attention itself is computed in `models.ops.ms_deform_attn`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.dino import DINO
from models.inference.detector import Detector, TrainedNetwork
from models.ops.ms_deform_attn import MSDeformAttn, Shapes
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
    levels: NDArray  # [N] level of each point; 0 is the finest


@dataclass(frozen=True)
class DetectionTrace:
    """One detection, and the query behind it layer by layer."""

    name: str  # of the category
    score: float
    rank: int  # 1 is the detection with the highest score
    num_detections: int
    cells: tuple[float, ...]  # side of a cell of each level, pixels of the file
    layers: tuple[LayerTrace, ...]


def trace_detection(detector: Detector, image: Image.Image, rank: int) -> DetectionTrace:
    """Follow one detection back through the layers of the decoder.

    Args:
        detector: of one checkpoint, without test-time augmentation.
        image: RGB.
        rank: of the detection by score; 1 is the highest.

    Raises:
        UserError: the image has fewer detections.
    """
    network = detector.views[0].network
    assert isinstance(network, TrainedNetwork), "only the network of a checkpoint can be traced"
    batch = collate([detector.views[0].prepare(image)]).to(network.device)
    with torch.inference_mode(), network.precision.autocast(), recorded_cross_attention(network.model) as calls:
        outputs = network.model(batch.images, batch.mask)
        detections = network.postprocess(outputs, batch.targets)[0]
        samples = [module.sampling_points(query, references, shapes) for module, query, references, shapes in calls]
    num_detections = len(detections["scores"])
    if not 1 <= rank <= num_detections:
        raise UserError(f"--detection {rank}: the image has {num_detections} detections, ranks from 1 on")
    score, label, box = (detections[name][rank - 1] for name in ("scores", "labels", "boxes"))
    frame = torch.tensor([image.width, image.height] * 2, device=box.device)
    prediction = network.postprocess.gated_prediction(outputs)
    [index] = network.postprocess.classes.indices([int(label)])
    query = _query_of(prediction.logits[0, :, index].sigmoid(), prediction.boxes[0], score, box / frame)
    layers = []
    for (_, _, references, _), (locations, weights), layer in zip(calls, samples, outputs.layers, strict=True):
        num_heads, num_levels, num_points = weights.shape[2:]
        levels = torch.arange(num_levels)[None, :, None].expand(num_heads, -1, num_points)
        layers.append(
            LayerTrace(
                reference=_numpy(cxcywh_to_xyxy(references[0, query, 0]) * frame),
                box=_numpy(cxcywh_to_xyxy(layer.boxes[0, query]) * frame),
                score=float(layer.logits[0, query, index].sigmoid()),
                points=_numpy(locations[0, query].flatten(0, 2) * frame[:2]),
                weights=_numpy(weights[0, query].flatten() / num_heads),
                levels=levels.flatten().numpy(),
            )
        )
    cells = tuple(image.height / h for h, _ in calls[0][3])
    return DetectionTrace(detector.names[int(label)], float(score), rank, num_detections, cells, tuple(layers))


@contextmanager
def recorded_cross_attention(model: DINO) -> Iterator[list[tuple[MSDeformAttn, Tensor, Tensor, Shapes]]]:
    """Record the inputs of each decoder layer's attention to the image.

    Yields:
        a list that a forward pass fills, layer by layer: module, query, references, (h, w) of each level.
    """
    calls: list[tuple[MSDeformAttn, Tensor, Tensor, Shapes]] = []

    def record(module: MSDeformAttn, inputs: tuple[Any, ...]) -> None:
        query, references, _, shapes, _ = inputs
        calls.append((module, query, references, shapes))

    attentions = [module for module in model.transformer.decoder.modules() if isinstance(module, MSDeformAttn)]
    handles = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _query_of(scores: Tensor, boxes: Tensor, score: Tensor, box: Tensor) -> int:
    """Which of the queries, with scores [Q] and boxes [Q, 4] cxcywh, gave this detection; it is the closest one."""
    return int(((scores - score).abs() + (cxcywh_to_xyxy(boxes) - box).abs().sum(-1)).argmin())


def _numpy(tensor: Tensor) -> NDArray:
    return tensor.detach().double().cpu().numpy()
