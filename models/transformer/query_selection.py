"""Two-stage query selection: every cell proposes a box, the top scores become queries (DINO, section 3.4)."""

import torch
from torch import Tensor, nn

from models.ops.ms_deform_attn import Shapes
from models.transformer.encoder import cell_centres
from util.base.errors import UserError

INNER = (0.01, 0.99)  # a proposal is usable only if all of cx, cy, w, h lie inside
BASE_SIZE = 0.05  # side of a proposal on level 0, doubled on each further level


def make_proposals(masks: list[Tensor], shapes: Shapes) -> tuple[Tensor, Tensor]:
    """One box per cell, centred on it, with a side that doubles from level to level.

    Args:
        masks: per level [B, h, w], True on padding.
        shapes: (h, w) of each level.

    Returns:
        logits [B, S, 4] float32, cxcywh in logit space of the unpadded image, +inf where not usable;
        usable [B, S], False on padding and for boxes too near the border or too large.
    """
    boxes = []
    for level, (mask, (h, w)) in enumerate(zip(masks, shapes, strict=True)):
        valid = torch.stack(((~mask[:, 0, :]).sum(1), (~mask[:, :, 0]).sum(1)), dim=-1)  # [B, 2] columns, rows
        centre = cell_centres(h, w, mask.device) / valid[:, None]
        boxes.append(torch.cat((centre, torch.full_like(centre, BASE_SIZE * 2**level)), dim=-1))
    proposals = torch.cat(boxes, dim=1)
    inside = ((proposals > INNER[0]) & (proposals < INNER[1])).all(-1)
    usable = inside & ~torch.cat([mask.flatten(1) for mask in masks], dim=1)
    logits = torch.log(proposals / (1 - proposals))
    return logits.masked_fill(~usable[..., None], float("inf")), usable


class TokenSelection(nn.Module):
    """`select_tokens` as a module, so that a forward hook can record and replace the selected tokens.

    Args:
        num_queries: tokens to select.
        category_ids: the classes whose scores count, or None for all.
    """

    category_ids: Tensor | None

    def __init__(self, num_queries: int, category_ids: tuple[int, ...] | None) -> None:
        super().__init__()
        self.num_queries = num_queries
        ids = None if category_ids is None else torch.tensor(category_ids)
        self.register_buffer("category_ids", ids, persistent=False)

    def forward(self, class_logits: Tensor) -> Tensor:
        """[B, S, C] -> [B, num_queries] indices into S."""
        return select_tokens(class_logits, self.num_queries, self.category_ids)


def select_tokens(class_logits: Tensor, num_queries: int, category_ids: Tensor | None) -> Tensor:
    """The tokens with the highest score of any class, in descending order.

    Args:
        class_logits: [B, S, C].
        num_queries: tokens to select.
        category_ids: the classes whose scores count, or None for all.

    Returns:
        [B, num_queries] indices into S.

    Raises:
        UserError: there are fewer tokens than queries.
    """
    num_tokens = class_logits.shape[1]
    if num_tokens < num_queries:
        raise UserError(
            f"num_queries {num_queries} exceeds the {num_tokens} cells of the feature maps; "
            "use larger images, more feature levels or fewer queries"
        )
    if category_ids is not None:
        class_logits = class_logits[..., category_ids]
    return class_logits.amax(-1).topk(num_queries, dim=1).indices


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, S, C] at [B, Q] -> [B, Q, C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
