"""Class losses: the focal loss of DINO, and losses whose target for a positive depends on the IoU of its box.

All have one form. For every query and class, `positives` is 1 where the query is matched with a ground-truth box of the
class, and `quality` is the IoU of the two boxes there. Each returns one term per query and class, without reduction.
p is the score, the sigmoid of a logit. Terms are computed from logarithms of p and 1 - p, so none overflows. Gradients
flow through every p in a formula except that in the target of `IABCE`; none flows through an IoU.
BCE(p, t) is the cross-entropy -t log p - (1 - t) log(1 - p).

Differences from the code of the papers:

- The weight p^g of the negatives is a constant in DEIM, and in the varifocal loss of RT-DETR; gradients flow through it
  in the code of VarifocalNet, Align-DETR and Stable-DINO, as here.
- A query whose box does not touch its ground truth (q = 0) is a negative of the varifocal loss; RT-DETR gives it no
  loss.
- Align-DETR clamps the target of IA-BCE to .01 or more.
- Stable-DINO raises the targets q^2 of an image until the largest is 1, and weighs positives by .25 and negatives by
  .75. With one or two lesions in an image that is nearly the focal loss, so the targets stay as they are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class ClassLoss(Protocol):
    """One of the losses of this file."""

    needs_quality: ClassVar[bool]  # whether `quality` is read

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
        """One term per query and class, of the shape of `logits`.

        Args:
            logits: [..., C].
            positives: as `logits`, 1 where a query is matched with a box of this class, else 0.
            quality: as `logits`, the IoU of the two boxes where `positives` is 1, else 0; without gradient. Not read
                where `needs_quality` is False.
        """


@dataclass(frozen=True)
class Focal:
    """Focal loss (arXiv 1708.02002, equation 5): a (1 - p)^g BCE(p, 1) for positives, (1 - a) p^g BCE(p, 0) else."""

    alpha: float  # weight of the positives
    gamma: float
    needs_quality: ClassVar[bool] = False

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `ClassLoss`."""
        # z > 0 is right; log p and log (1 - p) of the right side, without forming p
        z = torch.where(positives > 0, logits, -logits)
        loss = -functional.logsigmoid(z) * torch.exp(self.gamma * functional.logsigmoid(-z))
        return loss * (self.alpha * positives + (1 - self.alpha) * (1 - positives))


@dataclass(frozen=True)
class Varifocal:
    """Varifocal loss (arXiv 2008.13367, equation 2): q BCE(p, q) where the IoU q is above 0, else a p^g BCE(p, 0)."""

    alpha: float  # weight of the negatives
    gamma: float
    needs_quality: ClassVar[bool] = True

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:  # noqa: ARG002
        """See `ClassLoss`."""
        negatives = self.alpha * _damped(logits, self.gamma)
        return torch.where(quality > 0, quality * _bce(logits, quality), negatives)


@dataclass(frozen=True)
class MAL:
    """Matchability-aware loss (arXiv 2412.04234): BCE(p, q^g) for positives, p^g BCE(p, 0) for others."""

    gamma: float
    needs_quality: ClassVar[bool] = True

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
        """See `ClassLoss`."""
        return torch.where(positives > 0, _bce(logits, quality**self.gamma), _damped(logits, self.gamma))


@dataclass(frozen=True)
class IABCE:
    """IoU-aware BCE (arXiv 2304.07527): BCE(p, p^a q^(1 - a)) for positives, p^g BCE(p, 0) for others."""

    alpha: float  # share of the score itself in its target
    gamma: float
    needs_quality: ClassVar[bool] = True

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
        """See `ClassLoss`."""
        target = (logits.detach().sigmoid() ** self.alpha) * quality ** (1 - self.alpha)
        return torch.where(positives > 0, _bce(logits, target), _damped(logits, self.gamma))


@dataclass(frozen=True)
class PositionSupervised:
    """Position-supervised loss (arXiv 2304.04742): |q^2 - p|^g BCE(p, q^2) for positives, p^g BCE(p, 0) for others.

    Without the paper's rescaling of q^2, see above.
    """

    gamma: float
    needs_quality: ClassVar[bool] = True

    def __call__(self, logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
        """See `ClassLoss`."""
        target = quality**2
        distance = (target - logits.sigmoid()).abs() ** self.gamma
        return torch.where(positives > 0, distance * _bce(logits, target), _damped(logits, self.gamma))


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p)."""
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _damped(logits: Tensor, gamma: float) -> Tensor:
    """-p^g log(1 - p)."""
    return -functional.logsigmoid(-logits) * torch.exp(gamma * functional.logsigmoid(logits))
