"""The deformable encoder: every cell of every level attends to a few points of all levels."""

import torch
from torch import Tensor, nn

from models.layers import Linear, clones, feed_forward, run_layer
from models.ops.ms_deform_attn import MSDeformAttn, Shapes, cell_counts


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by add and norm."""

    def __init__(
        self,
        d_model: int,
        d_ffn: int,
        n_levels: int,
        n_heads: int,
        n_points: int,
        dropout: float = 0.0,
        attn_backend: str = "torch",
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(d_model, n_levels, n_heads, n_points, attn_backend)
        self.norm1 = nn.LayerNorm(d_model)
        self.linear1 = Linear(d_model, d_ffn)
        self.linear2 = Linear(d_ffn, d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, position: Tensor, references: Tensor, shapes: Shapes, padding: Tensor | None
    ) -> Tensor:
        """Tokens and position [B, S, C], references [B, S, L, 2], padding [B, S] -> tokens [B, S, C]."""
        attended = self.self_attn(tokens + position, references, tokens, shapes, padding)
        tokens = self.norm1(tokens + self.dropout(attended))
        fed = feed_forward(tokens, self.linear1, self.linear2, self.dropout)
        return self.norm2(tokens + self.dropout(fed))


class Encoder(nn.Module):
    """A stack of encoder layers. There is no final norm."""

    is_recomputed = False  # see models.layers.run_layer

    def __init__(self, layer: EncoderLayer, num_layers: int) -> None:
        super().__init__()
        self.layers = clones(layer, num_layers)

    def forward(
        self, tokens: Tensor, position: Tensor, shapes: Shapes, valid_ratios: Tensor, padding: Tensor
    ) -> Tensor:
        """Tokens and position [B, S, C], valid_ratios [B, L, 2] (w, h), padding [B, S] -> memory [B, S, C]."""
        references = encoder_references(shapes, valid_ratios)
        for layer in self.layers:
            arguments = (tokens, position, references, shapes, padding)
            tokens = run_layer(layer, *arguments, is_recomputed=self.is_recomputed)
        return tokens


def encoder_references(shapes: Shapes, valid_ratios: Tensor) -> Tensor:
    """The reference points: the centre of every cell, on every level.

    Args:
        shapes: (h, w) of each level.
        valid_ratios: [B, L, 2], the unpadded share of each level's width and height.

    Returns:
        [B, S, L, 2] x and y in [0, 1] of each padded level.
    """
    cells = cell_counts(shapes, valid_ratios)
    centres = [
        cell_centres(h, w, valid_ratios.device) / (valid_ratios[:, None, level] * cells[level])
        for level, (h, w) in enumerate(shapes)
    ]
    return torch.cat(centres, dim=1)[:, :, None] * valid_ratios[:, None]


def cell_centres(h: int, w: int, device: torch.device) -> Tensor:
    """[h * w, 2] float32: x + 0.5 and y + 0.5 of every cell, row by row."""
    y, x = torch.meshgrid(
        torch.arange(h, dtype=torch.float32, device=device) + 0.5,
        torch.arange(w, dtype=torch.float32, device=device) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).flatten(0, 1)
