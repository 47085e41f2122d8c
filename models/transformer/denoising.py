"""Contrastive denoising queries (DINO, section 3.3): ground-truth boxes with noise, to be restored or rejected.

Shape letters: N boxes of one image, K slots (boxes of the fullest image of the batch), G groups,
R = 2 G repeats (even: positives, odd: negatives), T = R * K denoising queries, Q matching queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import inverse_sigmoid
from util.detection.batch import Target, on_device


@dataclass(frozen=True)
class DenoisingQueries:
    """The denoising queries, which precede the matching queries."""

    content: Tensor  # [B, T, C]
    box_logits: Tensor  # [B, T, 4] cxcywh in logit space
    attn_mask: Tensor  # [T + Q, T + Q], True where a query (row) may not attend to another (column)
    key_padding_mask: Tensor | None  # [B, T + Q], True for padding slots that no query may attend to
    groups: int
    slots: int


@dataclass(frozen=True)
class Noise:
    """The noise on labels and boxes of one image."""

    labels: Tensor  # [R, N] replacement, or -1 to keep the label
    shifts: Tensor  # [R, N, 4] of x1, y1, x2, y2, in half sides: |shift| < 1 for positives, in [1, 2) for negatives


@dataclass(frozen=True)
class Denoiser:
    """Makes denoising queries from targets."""

    dn_number: int
    label_noise_ratio: float
    box_noise_scale: float
    num_queries: int
    category_ids: tuple[int, ...]  # labels that noise may draw
    use_padding: bool  # padding slots take part, as in the official code

    def __call__(
        self, targets: Sequence[Target], label_enc: nn.Embedding, most_boxes: int | None
    ) -> DenoisingQueries | None:
        """Queries for a batch, or None where there is nothing to denoise.

        Args:
            targets: per image `labels` [N] and `boxes` [N, 4] cxcywh in [0, 1]; with `noise_seed` [] the noise is a
                function of the seed, otherwise it comes from the global generator.
            label_enc: the label table.
            most_boxes: boxes of the fullest image of the optimizer step; None: of this batch.
        """
        slots = max((len(t["labels"]) for t in targets), default=0)
        if self.dn_number == 0 or slots == 0:
            return None
        groups = num_groups(self.dn_number, max(slots, most_boxes or 0))
        noises = self._draw(targets, 2 * groups)
        table = label_enc.weight
        content = table.new_zeros(len(targets), 2 * groups, slots, table.shape[1])
        box_logits = targets[0]["boxes"].new_zeros(len(targets), 2 * groups, slots, 4)
        filled = torch.zeros(len(targets), slots, dtype=torch.bool, device=table.device)
        for i, (target, noise) in enumerate(zip(targets, noises, strict=True)):
            n = len(target["labels"])
            labels = torch.where(noise.labels < 0, target["labels"], noise.labels)
            content[i, :, :n] = label_enc(labels).to(content.dtype)
            box_logits[i, :, :n] = inverse_sigmoid(shift_boxes(target["boxes"], noise.shifts, self.box_noise_scale))
            filled[i, :n] = True
        mask = attention_mask(groups, slots, self.num_queries, table.device)
        key_padding = None if self.use_padding else self._key_padding_mask(filled, 2 * groups)
        return DenoisingQueries(content.flatten(1, 2), box_logits.flatten(1, 2), mask, key_padding, groups, slots)

    def _draw(self, targets: Sequence[Target], repeats: int) -> list[Noise]:
        """Noise per image; without seeds one draw over all images at once, as in the official code."""
        counts = [len(t["labels"]) for t in targets]
        device = targets[0]["labels"].device
        if all("noise_seed" in t for t in targets):
            seeds = [int(t["noise_seed"]) for t in targets]
            noises = [
                self.draw_noise(repeats, n, torch.Generator().manual_seed(seed))
                for n, seed in zip(counts, seeds, strict=True)
            ]
        else:
            joint = self.draw_noise(repeats, sum(counts), None)
            noises = list(map(Noise, joint.labels.split(counts, 1), joint.shifts.split(counts, 1)))
        return [Noise(on_device(n.labels, device), on_device(n.shifts, device)) for n in noises]

    def draw_noise(self, repeats: int, count: int, generator: torch.Generator | None) -> Noise:
        """Four draws on the CPU, so that a seed means the same noise on every device."""
        replaced = torch.rand(repeats * count, generator=generator) < self.label_noise_ratio * 0.5
        drawn = torch.randint(0, len(self.category_ids), (int(replaced.sum()),), generator=generator)
        labels = torch.full((repeats * count,), -1)
        labels[replaced] = torch.tensor(self.category_ids)[drawn]
        signs = torch.randint(0, 2, (repeats * count, 4), generator=generator) * 2.0 - 1.0
        sizes = torch.rand(repeats * count, 4, generator=generator).view(repeats, count, 4)
        sizes[1::2] += 1.0
        return Noise(labels.view(repeats, count), signs.view(repeats, count, 4) * sizes)

    def _key_padding_mask(self, filled: Tensor, repeats: int) -> Tensor:
        """[B, K] -> [B, T + Q]: True for the padding slots of every repeat, False for matching queries."""
        slots = (~filled)[:, None].expand(-1, repeats, -1).flatten(1)
        return torch.cat((slots, slots.new_zeros(len(filled), self.num_queries)), dim=1)


def num_groups(dn_number: int, most_boxes: int) -> int:
    """Groups for a step whose fullest image has `most_boxes` boxes.

    From 50 on, 2 * dn_number queries are divided among the groups. Below 50, dn_number counts groups instead of
    queries: 2 * dn_number of them, however many boxes. That is an official peculiarity that public configs rely on.
    """
    budget = 2 * dn_number
    if most_boxes == 0:
        return 1
    return max(1, budget // (2 * most_boxes) if budget >= 100 else budget)


def shift_boxes(boxes: Tensor, shifts: Tensor, scale: float) -> Tensor:
    """Move the corners of cxcywh boxes [N, 4] by shifts [R, N, 4] half sides times `scale`, inside [0, 1].

    Corners are not reordered: a side may come out negative, and the logit turns it into the smallest one.
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    corners = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
    half_sides = torch.cat((size, size), dim=-1) / 2
    moved = (corners + shifts.to(boxes.dtype) * half_sides * scale).clamp(0, 1)
    low, high = moved[..., :2], moved[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def attention_mask(groups: int, slots: int, num_queries: int, device: torch.device) -> Tensor:
    """[T + Q, T + Q], True = blocked: matching queries do not attend to denoising ones, nor groups to each other."""
    group = torch.arange(groups, device=device).repeat_interleave(2 * slots)
    num_denoising = len(group)
    blocked = torch.zeros(num_denoising + num_queries, num_denoising + num_queries, dtype=torch.bool, device=device)
    blocked[:, :num_denoising] = True
    blocked[:num_denoising, :num_denoising] = group[:, None] != group[None, :]
    return blocked
