"""Whether a source normalises the colours of images otherwise than this repository does."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

MEAN = np.array([123.675, 116.28, 103.53])  # of ImageNet, red first, in grey levels of 255
STD = np.array([58.395, 57.12, 57.375])
NAMES = {"mean": ("pixel_mean", "data_preprocessor.mean"), "std": ("pixel_std", "data_preprocessor.std")}
IN_CONFIG = r"\b{name}\s*=\s*[\[(]\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)"


def normalisation_warning(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """A warning where a checkpoint states another order of colours, mean or standard deviation; None otherwise.

    Args:
        content: of the file; MMDetection puts the text of its config into `meta`.
        tensors: of the network; some programs keep mean and standard deviation among them.
    """
    mean = _stated("mean", content, tensors)
    std = _stated("std", content, tensors)
    if mean is not None and _is_close(mean, MEAN[::-1]):
        return "warning: its images have blue as the first channel (BGR), here red is: the first layer must adapt"
    other = [
        f"{name} {', '.join(f'{v:g}' for v in value)} instead of {', '.join(f'{v:g}' for v in usual)}"
        for name, value, usual in (("mean", mean, MEAN), ("standard deviation", std, STD))
        if value is not None and not _is_close(value, usual)
    ]
    return (
        f"warning: its images are normalised by {' and '.join(other)}: the first layers must adapt" if other else None
    )


def _stated(name: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> np.ndarray | None:
    for tensor in (tensors.get(key) for key in NAMES[name]):
        if tensor is not None and tensor.numel() == len(MEAN):
            return tensor.double().flatten().numpy()
    meta = content.get("meta")
    text = meta.get("cfg", meta.get("config")) if isinstance(meta, dict) else None
    found = re.search(IN_CONFIG.format(name=name), text) if isinstance(text, str) else None
    return np.array([float(value) for value in found.groups()]) if found else None


def _is_close(value: np.ndarray, usual: np.ndarray) -> bool:
    """Whether two are the same, in grey levels of 255 or of 1."""
    return bool(np.allclose(value, usual, rtol=0.01) or np.allclose(value * 255, usual, rtol=0.01))
