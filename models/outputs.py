"""The outputs of the network, with shapes. B images, Q queries, C classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Class logits and a box for each query."""

    logits: Tensor  # [B, Q, C], sigmoid gives a score per class
    boxes: Tensor  # [B, Q, 4], cxcywh in [0, 1] of the unpadded image


@dataclass(frozen=True)
class Denoised:
    """Predictions for the denoising queries. Query g * 2 * slots + k: positive of an image's k-th box, group g."""

    layers: tuple[Prediction, ...]  # Q = groups * 2 * slots
    groups: int
    slots: int  # boxes of the fullest image of the batch


@dataclass(frozen=True)
class DINOOutput:
    """All predictions of a forward pass."""

    layers: tuple[Prediction, ...]  # one per computed decoder layer; the last is the result
    proposals: Prediction  # of the encoder, for the selected tokens
    denoising: Denoised | None = None  # training only, and only if the batch has a box
    image_logits: Tensor | None = None  # [B], whether the image has any box; only with the image head

    @property
    def last(self) -> Prediction:
        """The prediction of the last decoder layer."""
        return self.layers[-1]

    def matched(self) -> Iterator[tuple[str, Prediction]]:
        """Predictions matched by the matcher: suffix "", then "_0", "_1", ..., then "_interm"."""
        yield "", self.last
        yield from ((f"_{i}", layer) for i, layer in enumerate(self.layers[:-1]))
        yield "_interm", self.proposals

    def denoised(self) -> Iterator[tuple[str, Prediction]]:
        """Predictions matched by construction: suffix "_dn", then "_dn_0", "_dn_1", ..."""
        if self.denoising:
            *inner, last = self.denoising.layers
            yield "_dn", last
            yield from ((f"_dn_{i}", layer) for i, layer in enumerate(inner))
