"""From feature maps to decoder states: flatten levels, encode, select queries, decode."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import MLP, Linear
from models.ops.ms_deform_attn import MSDeformAttn, Shapes
from models.transformer.decoder import Decoder, DecoderLayer, valid_ratios_of
from models.transformer.denoising import DenoisingQueries
from models.transformer.encoder import Encoder, EncoderLayer
from models.transformer.query_selection import TokenSelection, gather_tokens, make_proposals


@dataclass(frozen=True)
class TransformerOutput:
    """The output of the transformer. B images, Q queries (denoising queries first), C width."""

    states: list[Tensor]  # per decoder layer [B, Q, C]
    references: list[Tensor]  # per decoder layer [B, Q, 4] cxcywh in [0, 1], the box it refines
    proposal_logits: Tensor  # [B, num_queries, num_classes]
    proposal_boxes: Tensor  # [B, num_queries, 4] cxcywh in [0, 1]
    memory: Tensor  # [B, S, C], of the encoder
    padding: Tensor  # [B, S], True where that is padding


class Transformer(nn.Module):
    """Deformable encoder, two-stage mixed query selection, deformable decoder."""

    def __init__(
        self,
        encoder_layer: EncoderLayer,
        decoder_layer: DecoderLayer,
        *,
        d_model: int,
        enc_layers: int,
        dec_layers: int,
        num_levels: int,
        num_queries: int,
        bbox_embed: MLP,
        class_embed: nn.Linear,
        category_ids: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(num_levels, d_model))
        self.encoder = Encoder(encoder_layer, enc_layers)
        self.decoder = Decoder(decoder_layer, dec_layers, d_model, bbox_embed, class_embed)
        self.tgt_embed = nn.Embedding(num_queries, d_model)
        self.enc_output = Linear(d_model, d_model)
        self.enc_output_norm = nn.LayerNorm(d_model)
        self.enc_out_bbox_embed = copy.deepcopy(bbox_embed)
        self.enc_out_class_embed = copy.deepcopy(class_embed)
        self.selection = TokenSelection(num_queries, category_ids)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Xavier for every matrix outside the heads and deformable attention, which have their own initialisation."""
        heads = {id(p) for head in (*self.decoder.bbox_embed, *self.decoder.class_embed) for p in head.parameters()}
        heads |= {id(p) for head in (self.enc_out_bbox_embed, self.enc_out_class_embed) for p in head.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and id(parameter) not in heads:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(
        self, features: list[Tensor], masks: list[Tensor], positions: list[Tensor], denoising: DenoisingQueries | None
    ) -> TransformerOutput:
        """Per level features and positions [B, C, h, w] and masks [B, h, w], True on padding."""
        shapes: Shapes = [(f.shape[2], f.shape[3]) for f in features]
        tokens = torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1)
        position = torch.cat(
            [
                p.to(tokens.dtype).flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, p in enumerate(positions)
            ],
            dim=1,
        )
        padding = torch.cat([m.flatten(1) for m in masks], dim=1)
        valid_ratios = valid_ratios_of(masks)
        memory = self.encoder(tokens, position, shapes, valid_ratios, padding)
        proposal_logits, box_logits = self._select(memory, masks, shapes)
        content = self.tgt_embed.weight.expand(memory.shape[0], -1, -1)  # len() would fix the batch size of an export
        reference = box_logits.detach()
        if denoising is not None:
            content = torch.cat((denoising.content, content), dim=1)
            reference = torch.cat((denoising.box_logits, reference), dim=1)
        states, references = self.decoder(
            content,
            reference,
            memory,
            shapes,
            valid_ratios,
            padding,
            None if denoising is None else denoising.attn_mask,
            None if denoising is None else denoising.key_padding_mask,
        )
        return TransformerOutput(states, references, proposal_logits, box_logits.sigmoid(), memory, padding)

    def _select(self, memory: Tensor, masks: list[Tensor], shapes: Shapes) -> tuple[Tensor, Tensor]:
        """Class logits [B, Q, num_classes] and box logits [B, Q, 4] of the tokens that become queries."""
        proposals, usable = make_proposals(masks, shapes)
        projected = self.enc_output_norm(self.enc_output(memory.masked_fill(~usable[..., None], 0)))
        class_logits = self.enc_out_class_embed(projected)
        index = self.selection(class_logits)
        # the box head runs on the selected tokens only: nothing uses the boxes of the others
        box_logits = self.enc_out_bbox_embed(gather_tokens(projected, index)) + gather_tokens(proposals, index)
        return gather_tokens(class_logits, index), box_logits
