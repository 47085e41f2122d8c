"""Swin Transformer feature maps (Liu et al. 2021), for images of any size.

The windows are those of timm; the network around them pads every map to whole windows at each call and never
shrinks a window to a small map, as public DINO weights expect. State-dict names are those of the Swin authors.

Shape letters: B images, H x W positions of a map, C channels, N = window * window tokens of a window.
"""

import re

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.base import Backbone

PATCH = 4
MLP_RATIO = 4
BETWEEN_REGIONS = -100.0


class SwinTransformer(Backbone):
    """Four stages of window attention; stage i has stride 4 * 2^i and embed_dim * 2^i channels.

    Args:
        embed_dim: channels of stage 0.
        depths: blocks of each stage; odd blocks shift their windows by half a window.
        num_heads: attention heads of each stage.
        window: side of a window in positions.
        drop_path: stochastic depth of the last block while training; it rises linearly from 0 over all blocks.
        return_interm_indices: stages handed on, rising; each has a LayerNorm `norm{i}` of its own.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window: int,
        drop_path: float,
        return_interm_indices: tuple[int, ...],
    ):
        super().__init__()
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        rates = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        self.return_interm_indices = return_interm_indices
        self.num_channels = tuple(widths[stage] for stage in return_interm_indices)
        self.patch_embed = PatchEmbedding(embed_dim)
        self.layers = nn.ModuleList()
        for stage, (dim, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True)):
            first = sum(depths[:stage])
            is_last = stage == len(depths) - 1
            self.layers.append(SwinStage(dim, heads, window, rates[first : first + depth], merges=not is_last))
        for stage in return_interm_indices:
            self.add_module(f"norm{stage}", nn.LayerNorm(widths[stage]))
        self.apply(initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to one map [B, C, ceil(H / stride), ceil(W / stride)] per returned stage."""
        x = self.patch_embed(images)
        maps = []
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            if stage in self.return_interm_indices:
                maps.append(getattr(self, f"norm{stage}")(x).permute(0, 3, 1, 2).contiguous())
            if isinstance(layer.downsample, PatchMerging):
                x = layer.downsample(x)
        return maps


class PatchEmbedding(nn.Module):
    """A 4x4 convolution of stride 4 and a LayerNorm; the image is zero padded to whole patches, right and bottom."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to [B, ceil(H / 4), ceil(W / 4), C]."""
        height, width = images.shape[-2:]
        x = self.proj(functional.pad(images, (0, -width % PATCH, 0, -height % PATCH)))
        return self.norm(x.permute(0, 2, 3, 1))


class SwinStage(nn.Module):
    """Blocks at one resolution; `downsample` leads to the next one and is called by the network."""

    def __init__(self, dim: int, heads: int, window: int, drop_paths: list[float], *, merges: bool):
        super().__init__()
        self.window = window
        shifts = [0 if i % 2 == 0 else window // 2 for i in range(len(drop_paths))]
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, shift, rate) for shift, rate in zip(shifts, drop_paths, strict=True)
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to the same; the mask of the shifted windows serves all blocks."""
        padded_size = [side + -side % self.window for side in x.shape[1:3]]
        mask = region_mask(padded_size, self.window, x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, each with a residual connection."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float):
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = window_attention(dim, heads, window)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim, act_layer=nn.GELU)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, H, W, C] to the same; `mask` [windows, N, N] is added to the scores of a shifted block."""
        x = x + self.drop_path(self.attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention within windows; the zeros that fill the last ones take part, as in the authors' network."""
        _, height, width, channels = x.shape
        sides = (self.window, self.window)
        x = functional.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        _, padded_height, padded_width, _ = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        tokens = window_partition(x, sides).flatten(1, 2)
        tokens = self.attn(tokens, mask=mask if self.shift else None)
        x = window_reverse(tokens.unflatten(1, sides), sides, padded_height, padded_width)
        x = x.reshape(-1, padded_height, padded_width, channels)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Neighbourhoods of 2x2 become one position of twice the channels; odd sides are zero padded."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), 2 C]."""
        _, height, width, _ = x.shape
        x = functional.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


def official_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in timm's or the authors' naming, under the authors' names.

    In timm merging opens a stage; in the authors' network it closes the one before.
    """
    if not any(key.startswith("layers.3.downsample.") for key in tensors):
        return tensors
    merging = re.compile(r"^layers\.(\d)\.downsample\.")
    return {merging.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample.", key): t for key, t in tensors.items()}


def window_attention(dim: int, heads: int, window: int) -> WindowAttention:
    """timm's window attention, its table of indices kept in the state dict as in public checkpoints."""
    attention = WindowAttention(dim, num_heads=heads, window_size=window)
    index = attention.get_buffer("relative_position_index")
    attention.register_buffer("relative_position_index", index, persistent=True)
    return attention


def region_mask(padded_size: list[int], window: int, device: torch.device) -> Tensor:
    """-100 between tokens of a shifted window that were no neighbours before the shift, else 0: [windows, N, N].

    The shift rolls the first rows and columns to the end, so the last window of each axis holds two bands.
    """
    shift = window // 2
    bands = []
    for side in padded_size:
        position = torch.arange(side, device=device)
        bands.append((position >= side - window).long() + (position >= side - shift).long())
    regions = 3 * bands[0][:, None] + bands[1][None, :]
    tokens = window_partition(regions[None, :, :, None], (window, window)).flatten(1)
    differ = tokens[:, :, None] != tokens[:, None, :]
    return torch.zeros(differ.shape, device=device).masked_fill(differ, BETWEEN_REGIONS)


def initialise(module: nn.Module) -> None:
    """Linear layers start as in the authors' network; the others as PyTorch starts them."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
