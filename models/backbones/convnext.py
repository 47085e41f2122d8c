"""ConvNeXt feature maps (Liu et al. 2022), with the state-dict names of the authors."""

import re
from itertools import pairwise

import torch
from timm.layers import LayerNorm2d, trunc_normal_
from torch import Tensor, nn

from models.backbones.base import Backbone
from util.base.errors import UserError

NORM_EPS = 1e-6
LAYER_SCALE = 1e-6
SMALLEST_IMAGE = 32
TIMM_NAMES = (  # pattern of a name in timm, replacement of the authors
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
)


class ConvNeXt(Backbone):
    """Four stages of depthwise convolutions; stage i has stride 4 * 2^i.

    `norm0` to `norm3` all exist, as in public checkpoints, but only those of the returned stages are used. The
    others are frozen: without a gradient they would stop a data-parallel step, and they have nothing to learn.

    Args:
        depths: blocks of each of the four stages.
        widths: channels of each stage.
        return_interm_indices: stages handed on, rising.
    """

    def __init__(self, *, depths: tuple[int, ...], widths: tuple[int, ...], return_interm_indices: tuple[int, ...]):
        super().__init__()
        self.return_interm_indices = return_interm_indices
        self.num_channels = tuple(widths[stage] for stage in return_interm_indices)
        stem = nn.Sequential(nn.Conv2d(3, widths[0], kernel_size=4, stride=4), layer_norm_2d(widths[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for dim, next_dim in pairwise(widths):
            halve = nn.Conv2d(dim, next_dim, kernel_size=2, stride=2)
            self.downsample_layers.append(nn.Sequential(layer_norm_2d(dim), halve))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth)))
            for dim, depth in zip(widths, depths, strict=True)
        )
        for stage, dim in enumerate(widths):
            norm = layer_norm_2d(dim).requires_grad_(stage in return_interm_indices)
            self.add_module(f"norm{stage}", norm)
        self.apply(initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to one map [B, C, h, w] per returned stage; h is H divided by 4 and halved, rounded down.

        Raises:
            UserError: a side is shorter than 32 pixels, so the last stage would be empty.
        """
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST_IMAGE:
            raise UserError(
                f"ConvNeXt needs images of at least 32 x 32 pixels, got {height} x {width}; "
                "use larger data_aug_scales, or leave such narrow images out"
            )
        x = images
        maps = []
        for stage, (downsample, blocks) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = blocks(downsample(x))
            if stage in self.return_interm_indices:
                maps.append(getattr(self, f"norm{stage}")(x))
        return maps


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, MLP and a learned scale per channel, with a residual connection."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


def official_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in timm's or the authors' naming, under the authors' names."""
    for pattern, replacement in TIMM_NAMES:
        tensors = {re.sub(pattern, replacement, key): tensor for key, tensor in tensors.items()}
    return tensors


def layer_norm_2d(dim: int) -> LayerNorm2d:
    """LayerNorm over the channels of [B, C, H, W]."""
    return LayerNorm2d(dim, eps=NORM_EPS)


def initialise(module: nn.Module) -> None:
    """Convolutions and linear layers start as in the authors' network."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
