"""Collect the outputs of a network as one table. The only file of the metrics that needs torch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from util.metrics.tables import Detections


def collect_detections(images: Sequence[int], outputs: Sequence[Mapping[str, Tensor]]) -> Detections:
    """Concatenate `scores` [n], `labels` [n] and `boxes` [n, 4] xyxy of each image, one row per detection."""
    empty = {"scores": torch.zeros(0), "boxes": torch.zeros(0, 4)}
    columns = {k: torch.cat([empty[k], *(output[k] for output in outputs)]).double().numpy() for k in empty}
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(output["labels"] for output in outputs)]).numpy()
    return Detections(
        images=tuple(images),
        image_id=np.repeat(np.array(images, dtype=np.int64), [len(output["scores"]) for output in outputs]),
        label=labels,
        xyxy=columns["boxes"],
        score=columns["scores"],
    )
