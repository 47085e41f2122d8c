"""Sine embeddings of positions: of every cell of a feature map, and of boxes.

Both are computed in float32 whatever the precision of the network, as in the official code.
"""

import math

import torch
from torch import Tensor, nn

BOX_TEMPERATURE = 10000.0


class PositionEmbeddingSine(nn.Module):
    """Sine embedding of the row and the column of each cell, counted over unpadded cells only.

    Args:
        num_features: features per axis; the embedding has twice as many, rows first.
        temperature_h: temperature of the rows.
        temperature_w: temperature of the columns.
    """

    def __init__(self, num_features: int, temperature_h: float, temperature_w: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.temperature_h = temperature_h
        self.temperature_w = temperature_w

    def forward(self, mask: Tensor) -> Tensor:
        """Mask [B, H, W], True on padding -> float32 [B, 2 * num_features, H, W]."""
        valid = (~mask).to(torch.float32)
        rows = valid.cumsum(1)
        columns = valid.cumsum(2)
        rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        embedding = torch.cat(
            (
                interleaved_sine(rows, self.num_features, self.temperature_h),
                interleaved_sine(columns, self.num_features, self.temperature_w),
            ),
            dim=-1,
        )
        return embedding.permute(0, 3, 1, 2)


def box_sine_embedding(boxes: Tensor, num_features: int) -> Tensor:
    """Boxes [..., 4] cxcywh in [0, 1] -> [..., 4 * num_features], in the order y, x, w, h (DAB-DETR, section 4.2)."""
    x, y, w, h = (boxes * (2 * math.pi)).unbind(-1)
    return torch.cat([interleaved_sine(part, num_features, BOX_TEMPERATURE) for part in (y, x, w, h)], dim=-1)


def interleaved_sine(angle: Tensor, num_features: int, temperature: float) -> Tensor:
    """[...] -> [..., n]: feature k is sin (k even) or cos (k odd) of angle / temperature^(2 * (k // 2) / n)."""
    k = torch.arange(num_features, dtype=torch.float32, device=angle.device)
    scaled = angle[..., None] / temperature ** (2 * torch.div(k, 2, rounding_mode="floor") / num_features)
    return torch.stack((scaled[..., 0::2].sin(), scaled[..., 1::2].cos()), dim=-1).flatten(-2)
