"""DINO: DETR with Improved DeNoising Anchor Boxes (arXiv 2203.03605)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import MLP, Linear, at_least_float32
from models.outputs import Denoised, DINOOutput, Prediction
from models.transformer.decoder import DecoderLayer
from models.transformer.denoising import Denoiser
from models.transformer.encoder import EncoderLayer
from models.transformer.image_head import ImageHead
from models.transformer.position_encoding import PositionEmbeddingSine
from models.transformer.transformer import Transformer
from util.detection.batch import Target

PRIOR = 0.01  # score of every class at the start (focal loss, section 3.3)


class DINO(nn.Module):
    """Backbone, projections, denoising queries, transformer, heads.

    Args:
        backbone: images [B, 3, H, W] -> list of feature maps, with `num_channels` per map.
        encoder_layer: copied `enc_layers` times.
        decoder_layer: copied `dec_layers` times.
        denoiser: makes denoising queries in training.
        hidden_dim: width of the transformer.
        num_classes: classes of the heads.
        num_queries: matching queries.
        num_feature_levels: maps of the transformer; those beyond the backbone's are strided convolutions.
        dn_labelbook_size: rows of the denoising label table, less one.
        category_ids: classes that may be selected as queries, None for all.
        temperature_h: of the position embedding's rows.
        temperature_w: of the position embedding's columns.
        image_head: also say of the whole image whether it has any box.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder_layer: EncoderLayer,
        decoder_layer: DecoderLayer,
        denoiser: Denoiser,
        *,
        hidden_dim: int,
        enc_layers: int,
        dec_layers: int,
        num_classes: int,
        num_queries: int,
        num_feature_levels: int,
        dn_labelbook_size: int,
        category_ids: tuple[int, ...] | None,
        temperature_h: float,
        temperature_w: float,
        image_head: bool,
    ) -> None:
        super().__init__()
        bbox_embed, class_embed = build_heads(hidden_dim, num_classes)
        self.transformer = Transformer(
            encoder_layer,
            decoder_layer,
            d_model=hidden_dim,
            enc_layers=enc_layers,
            dec_layers=dec_layers,
            num_levels=num_feature_levels,
            num_queries=num_queries,
            bbox_embed=bbox_embed,
            class_embed=class_embed,
            category_ids=category_ids,
        )
        self.label_enc = nn.Embedding(dn_labelbook_size + 1, hidden_dim)
        self.input_proj = build_input_proj(backbone.num_channels, hidden_dim, num_feature_levels)
        self.backbone = nn.ModuleList([backbone])
        self.bbox_embed = self.transformer.decoder.bbox_embed
        self.class_embed = self.transformer.decoder.class_embed
        self.denoiser = denoiser
        self.position_embedding = PositionEmbeddingSine(hidden_dim // 2, temperature_h, temperature_w)
        self.image_head = ImageHead(hidden_dim) if image_head else None

    def forward(
        self,
        images: Tensor,
        mask: Tensor,
        targets: list[Target] | None = None,
        most_boxes: int | None = None,
        *,
        only_last: bool = False,
    ) -> DINOOutput:
        """Predict.

        Args:
            images: [B, 3, H, W], normalised, zero on padding.
            mask: [B, H, W], True on padding.
            targets: the truth, for denoising; used in training mode only.
            most_boxes: boxes of the fullest image of the optimizer step; None: of this batch.
            only_last: the answer alone, without those of the layers before it.
        """
        features = self._project(self.backbone[0](images))
        masks = [resize_mask(mask, f.shape[-2:]) for f in features]
        positions = [self.position_embedding(m) for m in masks]
        queries = None
        if self.training and targets is not None:
            queries = self.denoiser(targets, self.label_enc, most_boxes)
        decoded = self.transformer(features, masks, positions, queries)
        # a zero that keeps the label table in every graph: distributed training waits for all gradients, and the last
        # layer is the one whose loss cannot be switched off
        decoded.states[-1] = decoded.states[-1] + 0.0 * self.label_enc.weight[0, 0]
        with torch.autocast(images.device.type, enabled=False):  # in half precision many scores would be equal
            first = len(decoded.states) - 1 if only_last else 0
            states = [at_least_float32(state) for state in decoded.states[first:]]
            references = decoded.references[first:]
            layers = [Prediction(*answer) for answer in self.transformer.decoder.predict(states, references)]
        proposals = Prediction(at_least_float32(decoded.proposal_logits), at_least_float32(decoded.proposal_boxes))
        image_logits = self.image_head(decoded.memory, decoded.padding) if self.image_head else None
        if queries is None:
            return DINOOutput(tuple(layers), proposals, image_logits=image_logits)
        num = queries.content.shape[1]
        denoised = tuple(Prediction(p.logits[:, :num], p.boxes[:, :num]) for p in layers)
        layers = [Prediction(p.logits[:, num:], p.boxes[:, num:]) for p in layers]
        return DINOOutput(tuple(layers), proposals, Denoised(denoised, queries.groups, queries.slots), image_logits)

    def _project(self, maps: list[Tensor]) -> list[Tensor]:
        """Backbone maps -> `num_feature_levels` maps of the transformer's width."""
        projected = [project(m) for project, m in zip(self.input_proj, maps, strict=False)]
        previous = maps[-1]  # the first extra level starts from the raw last map, further ones from their predecessor
        for project in self.input_proj[len(maps) :]:
            previous = project(previous)
            projected.append(previous)
        return projected


def build_heads(hidden_dim: int, num_classes: int) -> tuple[MLP, Linear]:
    """A box head that starts by changing nothing, and a class head that starts at the prior."""
    bbox_embed = MLP(hidden_dim, hidden_dim, 4, 3)
    nn.init.zeros_(bbox_embed.layers[-1].weight)
    nn.init.zeros_(bbox_embed.layers[-1].bias)
    class_embed = Linear(hidden_dim, num_classes)
    nn.init.constant_(class_embed.bias, -math.log((1 - PRIOR) / PRIOR))
    return bbox_embed, class_embed


def build_input_proj(num_channels: tuple[int, ...], hidden_dim: int, num_levels: int) -> nn.ModuleList:
    """1x1 convolutions for the backbone's maps, strided 3x3 ones for the levels beyond; each with group norm."""
    convolutions = [nn.Conv2d(c, hidden_dim, kernel_size=1) for c in num_channels]
    while len(convolutions) < num_levels:
        channels = num_channels[-1] if len(convolutions) == len(num_channels) else hidden_dim
        convolutions.append(nn.Conv2d(channels, hidden_dim, kernel_size=3, stride=2, padding=1))
    for convolution in convolutions:
        nn.init.xavier_uniform_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    return nn.ModuleList(nn.Sequential(c, nn.GroupNorm(32, hidden_dim)) for c in convolutions)


def resize_mask(mask: Tensor, size: torch.Size) -> Tensor:
    """Mask [B, H, W] -> [B, h, w] by nearest neighbour."""
    return functional.interpolate(mask[None].float(), size=size)[0].to(torch.bool)
