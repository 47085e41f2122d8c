"""Auxiliary image classification head: whether an image has any box, from the encoder's tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import Linear, at_least_float32


class ImageHead(nn.Module):
    """A logit per image, from a weighted mean over the encoder's tokens.

    A lesion covers few of the tokens and would be lost in a plain mean, so the weights are learned (attention pooling,
    arXiv 1802.04712, equation 8 without the hidden layer). They start equal. A bias would cancel in the softmax.

    Args:
        width: of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Linear(width, 1, bias=False)
        self.answer = Linear(width, 1)
        nn.init.zeros_(self.attention.weight)

    def forward(self, memory: Tensor, padding: Tensor) -> Tensor:
        """Tokens [B, S, C] and where they are padding [B, S] -> logits [B], at least float32.

        Without autocast, as the other heads: in half precision many images would have equal scores.
        """
        with torch.autocast(memory.device.type, enabled=False):
            memory = at_least_float32(memory)
            scores = self.attention(memory).squeeze(-1).masked_fill(padding, float("-inf"))
            pooled = torch.einsum("bs,bsc->bc", functional.softmax(scores, dim=1), memory)
            return self.answer(pooled).squeeze(-1)
