"""What a network has found, image by image, as one table; the tables themselves need no torch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from util.metrics.tables import Detections


def collect_detections(images: Sequence[int], found: Sequence[Mapping[str, Tensor]]) -> Detections:
    """One row per detection, image by image, of `scores` [n], `labels` [n] and `boxes` [n, 4] xyxy of each."""
    empty = {"scores": torch.zeros(0), "labels": torch.zeros(0), "boxes": torch.zeros(0, 4)}
    columns = {k: torch.cat([empty[k], *(f[k] for f in found)]).double().numpy() for k in empty}
    return Detections(
        images=tuple(images),
        image_id=np.repeat(np.array(images, dtype=np.int64), [len(f["scores"]) for f in found]),
        label=columns["labels"].astype(np.int64),
        xyxy=columns["boxes"],
        score=columns["scores"],
    )
