"""Small building blocks of the transformer."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

LOGIT_EPS = 1e-3


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., input_dim] -> [..., output_dim]."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def inverse_sigmoid(x: Tensor, eps: float = LOGIT_EPS) -> Tensor:
    """Logit of x in [0, 1], both x and 1 - x held at `eps` or more.

    1e-3 is the official value: it bounds the logit to +-6.9, and boxes at the border move when it changes.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def clones(module: nn.Module, count: int) -> nn.ModuleList:
    """`count` copies that start equal and are independent from then on."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(count))


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
