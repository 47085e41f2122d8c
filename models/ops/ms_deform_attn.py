"""The layer of multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1).

Shape letters: B images, S positions over all levels, M heads, D channels of a head,
Q queries, L levels, P points.
"""

import math

import torch
from torch import Tensor, nn

from models.layers import Linear
from models.ops.backends import backend_for
from models.ops.definition import Shapes
from util.detection.batch import on_device


class MSDeformAttn(nn.Module):
    """Multi-head deformable attention over `n_levels` maps with `n_points` sampling points per head and level.

    `backend` is one of the names of util.config.schema's attn_backend.
    """

    def __init__(self, d_model: int, n_levels: int, n_heads: int, n_points: int, backend: str = "torch") -> None:
        super().__init__()
        self.backend = backend
        self.n_levels = n_levels
        self.n_heads = n_heads
        self.n_points = n_points
        self.sampling_offsets = Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal weights; point p of head h lies p + 1 cells away in the direction 2 pi h / n_heads."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * steps[None, None, :, None]  # [M, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    @torch.compiler.disable  # torch.compile must not trace into a backend: models/speed.py
    def forward(
        self, query: Tensor, references: Tensor, source: Tensor, shapes: Shapes, padding: Tensor | None
    ) -> Tensor:
        """Attend from queries to the maps.

        Args:
            query: [B, Q, C], content plus position.
            references: [B, Q, L, 2] points or [B, Q, L, 4] boxes cxcywh, in [0, 1] of the padded map.
            source: [B, S, C].
            shapes: (h, w) of each level.
            padding: [B, S], True where `source` is padding, or None.

        Returns:
            [B, Q, C]
        """
        value = self.value_proj(source)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        locations, weights = self.sampling_points(query, references, shapes)
        value = value.unflatten(-1, (self.n_heads, -1))
        attend = backend_for(self.backend, value.device.type)
        with torch.autocast(value.device.type, enabled=False):
            blended = attend(value, shapes, locations, weights)
        return self.output_proj(blended)

    def sampling_points(self, query: Tensor, references: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """The sampling points of each query, and their attention weights.

        Args:
            query: [B, Q, C], content plus position.
            references: [B, Q, L, 2] points or [B, Q, L, 4] boxes cxcywh, in [0, 1] of the padded map.
            shapes: (h, w) of each level.

        Returns:
            locations [B, Q, M, L, P, 2], x and y in [0, 1] of the padded map; weights [B, Q, M, L, P], of one head
            summing to one.
        """
        offsets = self.sampling_offsets(query).unflatten(-1, (self.n_heads, self.n_levels, self.n_points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.n_heads, self.n_levels * self.n_points))
        weights = weights.softmax(-1).unflatten(-1, (self.n_levels, self.n_points))
        return sampling_locations(references, offsets, shapes), weights


def sampling_locations(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    """The reference plus the offset, in cells around a point, in half sides around a box.

    Args:
        references: [B, Q, L, 2] or [B, Q, L, 4].
        offsets: [B, Q, M, L, P, 2].
        shapes: (h, w) of each level.

    Returns:
        [B, Q, M, L, P, 2], float32 at least.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    centre = references[:, :, None, :, None, :2]
    if references.shape[-1] == 2:
        return centre + offsets / cell_counts(shapes, offsets)[:, None, :]
    half_sides = references[:, :, None, :, None, 2:] * 0.5
    return centre + offsets / offsets.shape[-2] * half_sides


def cell_counts(shapes: Shapes, like: Tensor) -> Tensor:
    """[L, 2] columns and rows of each level, of the type and on the device of `like`.

    In an export for images of any size they are symbols, which torch.tensor does not take.
    """
    if all(isinstance(side, int) for shape in shapes for side in shape):
        return on_device(torch.tensor([(w, h) for h, w in shapes], dtype=like.dtype), like.device)
    return torch.stack([torch.stack((like.new_full((), w), like.new_full((), h))) for h, w in shapes])
