"""Small building blocks of the transformer."""

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LOGIT_EPS = 1e-3
ONEDNN_FROM = 20_480  # numbers from which on PyTorch gives a convolution to oneDNN


class Linear(nn.Linear):
    """A linear layer that may run as a 1x1 convolution.

    In float32 on a CPU PyTorch gives a matrix product to MKL, but a convolution to oneDNN, which is twice as fast on
    processors that MKL does not favour. Nothing is copied: pixels with channels innermost are the rows of a matrix.
    """

    is_fast = False

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if torch.compiler.is_compiling() or not (self.is_fast and self._suits_onednn(x)):
            return super().forward(x)  # a compiler chooses for itself, and must not compile anew for each size
        pixels = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # [1, in, N, 1]
        out = functional.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)

    @staticmethod
    def _suits_onednn(x: Tensor) -> bool:
        is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return is_plain and x.numel() > ONEDNN_FROM and torch.backends.mkldnn.is_available()


def feed_forward(x: Tensor, widen: Linear, narrow: Linear, dropout: nn.Module) -> Tensor:
    """Two linear layers with ReLU and dropout between them; a fast one keeps the wide tensor once instead of twice."""
    wide = widen(x)
    return narrow(dropout(wide.relu_() if widen.is_fast else wide.relu()))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., input_dim] -> [..., output_dim]."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def run_layer(layer: nn.Module, *arguments: Any, is_recomputed: bool) -> Tensor:
    """`layer(*arguments)`; recomputed in the backward pass, it keeps its arguments only until then."""
    if is_recomputed and torch.is_grad_enabled():
        return checkpoint(layer, *arguments, use_reentrant=False)
    return layer(*arguments)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logit of x in [0, 1], both x and 1 - x held at LOGIT_EPS or more.

    1e-3 is the official value: it bounds the logit to +-6.9, and boxes at the border move when it changes.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=LOGIT_EPS) / (1 - x).clamp(min=LOGIT_EPS))


def clones(module: nn.Module, count: int) -> nn.ModuleList:
    """`count` copies that start equal and are independent from then on."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(count))


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
