"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) in plain PyTorch: the definition.

Shape letters: B images, S positions over all levels, M heads, D channels of a head,
Q queries, L levels, P points.
"""

import torch
from torch import Tensor
from torch.nn import functional

Shapes = list[tuple[int, int]]  # (h, w) of each level


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample each query's points from every level and sum them by their weights.

    Half precision cannot address a pixel of a large map: whatever the type of `value`, sampling and blending run in
    that of `locations`, and the result is rounded once.

    Args:
        value: [B, S, M, D] with S = sum of h * w over `shapes`.
        shapes: (h, w) of each of the L levels.
        locations: [B, Q, M, L, P, 2], x and y in [0, 1] edge to edge of the level; outside samples are zero. float32
            or float64.
        weights: [B, Q, M, L, P], summing to one over L and P.

    Returns:
        [B, Q, M * D] in the type of `value`.
    """
    b, _, m, d = value.shape
    q = locations.shape[1]
    grids = (2 * locations - 1).permute(0, 2, 1, 3, 4, 5).flatten(0, 1)  # [B*M, Q, L, P, 2]
    levels = value.to(locations.dtype).split([h * w for h, w in shapes], dim=1)
    sampled = []
    for level, (h, w) in enumerate(shapes):
        maps = levels[level].permute(0, 2, 3, 1).reshape(b * m, d, h, w)
        sampled.append(functional.grid_sample(maps, grids[:, :, level], padding_mode="zeros", align_corners=False))
    blend = weights.to(locations.dtype).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(2)  # [B*M, Q, L*P]
    out = (torch.cat(sampled, dim=-1) * blend[:, None]).sum(-1)  # [B*M, D, Q]
    return out.view(b, m * d, q).transpose(1, 2).to(value.dtype)


def why_not(device_type: str) -> str | None:  # noqa: ARG001 every backend has this signature
    """None: it runs on every device."""
    return None
