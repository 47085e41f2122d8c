"""The deformable decoder with iterative box refinement and look-forward-twice (DINO, section 3.5)."""

import torch
from torch import Tensor, nn

from models.layers import MLP, Linear, clones, feed_forward, inverse_sigmoid, run_layer
from models.ops.ms_deform_attn import MSDeformAttn, Shapes
from models.transformer.position_encoding import box_sine_embedding


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward; each with add and norm."""

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
        # registered in the official order: optimizer states of public checkpoints follow it
        self.cross_attn = MSDeformAttn(d_model, n_levels, n_heads, n_points, attn_backend)
        self.norm1 = nn.LayerNorm(d_model)
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(d_model)
        self.linear1 = Linear(d_model, d_ffn)
        self.linear2 = Linear(d_ffn, d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Shapes,
        padding: Tensor | None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Update the content of the queries.

        Args:
            content: [B, Q, C].
            position: [B, Q, C].
            references: [B, Q, L, 4] cxcywh in [0, 1] of each padded level.
            memory: [B, S, C].
            shapes: (h, w) of each level.
            padding: [B, S], True where the memory is padding.
            attn_mask: [Q, Q], True where a query (row) may not attend to another (column).
            key_padding_mask: [B, Q], True for queries that none may attend to.

        Returns:
            [B, Q, C]
        """
        query = content + position
        attended, _ = self.self_attn(
            query, query, content, attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False
        )
        content = self.norm2(content + self.dropout(attended))
        attended = self.cross_attn(content + position, references, memory, shapes, padding)
        content = self.norm1(content + self.dropout(attended))
        fed = feed_forward(content, self.linear1, self.linear2, self.dropout)
        return self.norm3(content + self.dropout(fed))


class Decoder(nn.Module):
    """A stack of decoder layers that refine reference boxes.

    `bbox_embed` and `class_embed` are one shared head each, under a name per layer, as in the official checkpoints.
    """

    is_recomputed = False  # see models.layers.run_layer

    def __init__(
        self, layer: DecoderLayer, num_layers: int, d_model: int, bbox_embed: nn.Module, class_embed: nn.Module
    ) -> None:
        super().__init__()
        self.layers = clones(layer, num_layers)
        self.norm = nn.LayerNorm(d_model)
        self.ref_point_head = MLP(2 * d_model, d_model, d_model, 2)
        self.bbox_embed = nn.ModuleList([bbox_embed] * num_layers)
        self.class_embed = nn.ModuleList([class_embed] * num_layers)
        self.d_model = d_model

    def forward(
        self,
        content: Tensor,
        reference_logits: Tensor,
        memory: Tensor,
        shapes: Shapes,
        valid_ratios: Tensor,
        padding: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run all layers.

        Args:
            content: [B, Q, C].
            reference_logits: [B, Q, 4] cxcywh in logit space of the unpadded image.
            memory: [B, S, C].
            shapes: (h, w) of each level.
            valid_ratios: [B, L, 2] (w, h).
            padding: [B, S], True where the memory is padding.
            attn_mask: [Q, Q] or None, see DecoderLayer.
            key_padding_mask: [B, Q] or None, see DecoderLayer.

        Returns:
            per layer the normed content [B, Q, C], and per layer the reference box [B, Q, 4] that it refines.
            The references keep their graph: the prediction of layer i trains the refinement of layer i - 1 too.
        """
        scale = valid_ratios.repeat(1, 1, 2)[:, None]  # [B, 1, L, 4]
        reference = reference_logits.sigmoid()
        references = [reference]
        states = []
        for i, layer in enumerate(self.layers):
            detached = reference.detach()
            on_levels = detached[:, :, None] * scale
            sines = box_sine_embedding(on_levels[:, :, 0], self.d_model // 2)
            position = self.ref_point_head(sines.to(content.dtype))
            arguments = (content, position, on_levels, memory, shapes, padding, attn_mask, key_padding_mask)
            content = run_layer(layer, *arguments, is_recomputed=self.is_recomputed)
            states.append(self.norm(content))
            # the refinement is computed from the content before the shared norm, the prediction from that after it
            reference = (self.bbox_embed[i](content) + inverse_sigmoid(detached)).sigmoid()
            references.append(reference)
        return states, references[:-1]

    def predict(self, states: list[Tensor], references: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per layer the class logits [B, Q, C] and the boxes [B, Q, 4] cxcywh in [0, 1] of the unpadded image.

        With fewer states than layers, they are those of the last layers.
        """
        heads = list(zip(self.class_embed, self.bbox_embed, strict=True))[-len(states) :]
        return [
            (class_embed(state), (bbox_embed(state) + inverse_sigmoid(reference)).sigmoid())
            for (class_embed, bbox_embed), state, reference in zip(heads, states, references, strict=True)
        ]


def valid_ratios_of(masks: list[Tensor]) -> Tensor:
    """Per level [B, h, w], True on padding -> [B, L, 2] float32: the unpadded share of the width and of the height."""
    ratios = []
    for mask in masks:
        valid = (~mask).to(torch.float32)
        ratios.append(torch.stack((valid[:, 0, :].mean(1), valid[:, :, 0].mean(1)), dim=-1))
    return torch.stack(ratios, dim=1)
