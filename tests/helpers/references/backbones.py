"""Swin and ConvNeXt as plain functions of a state dict, written from the papers to check models/ against.

No module, no convolution, no roll: maps are [B, H, W, C] throughout, and a position is looked up, never moved.
"""

import torch


def reference_swin(state, images, *, depths, heads, window, stages):
    """The maps of the returned stages; attention goes one window at a time."""
    x = zero_padded(images.movedim(1, 3), 4)
    x = patches(x, 4) @ flat_kernel(state, "patch_embed.proj") + state["patch_embed.proj.bias"]
    x = layer_norm(x, state, "patch_embed.norm")
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}."
            shift = window // 2 if block % 2 else 0
            y = layer_norm(x, state, prefix + "norm1")
            x = x + reference_attention(y, state, prefix + "attn.", heads[stage], window, shift)
            y = linear(layer_norm(x, state, prefix + "norm2"), state, prefix + "mlp.fc1")
            x = x + linear(gelu(y), state, prefix + "mlp.fc2")
        if stage in stages:
            maps.append(layer_norm(x, state, f"norm{stage}").movedim(3, 1))
        if stage < len(depths) - 1:
            x = reference_merging(x, state, f"layers.{stage}.downsample.")
    return maps


def reference_attention(x, state, prefix, heads, window, shift):
    _, height, width, channels = x.shape
    padded = zero_padded(x, window)
    _, tall, wide, _ = padded.shape
    qkv = linear(padded, state, prefix + "qkv").unflatten(-1, (3, heads, channels // heads))
    out = torch.zeros_like(padded)
    dy, dx = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    row = (dy[:, None] - dy + window - 1) * (2 * window - 1) + dx[:, None] - dx + window - 1
    bias = state[prefix + "relative_position_bias_table"][row].movedim(2, 0)
    for top in range(0, tall, window):
        for left in range(0, wide, window):
            y, x_ = (top + dy + shift) % tall, (left + dx + shift) % wide
            region = 2 * (top + dy + shift >= tall).long() + (left + dx + shift >= wide).long()
            mask = -100.0 * (region[:, None] != region).to(x.dtype)
            q, k, v = (qkv[:, y, x_, i].transpose(1, 2) for i in range(3))
            scores = q @ k.transpose(2, 3) / (channels // heads) ** 0.5 + bias + mask
            out[:, y, x_] = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return linear(out, state, prefix + "proj")[:, :height, :width]


def reference_merging(x, state, prefix):
    even = zero_padded(x, 2)
    corners = [even[:, 0::2, 0::2], even[:, 1::2, 0::2], even[:, 0::2, 1::2], even[:, 1::2, 1::2]]
    return layer_norm(torch.cat(corners, -1), state, prefix + "norm") @ state[prefix + "reduction.weight"].T


def layer_norm(x, state, name, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[name + ".weight"] + state[name + ".bias"]


def linear(x, state, name):
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def reference_convnext(state, images, *, depths, stages):
    """The maps of the returned stages; a convolution that does not overlap is a matrix over cut-out patches."""
    x = images.movedim(1, 3)
    maps = []
    for stage, depth in enumerate(depths):
        name = f"downsample_layers.{stage}."
        if stage == 0:
            x = patches(x, 4) @ flat_kernel(state, name + "0") + state[name + "0.bias"]
            x = layer_norm(x, state, name + "1", 1e-6)
        else:
            x = layer_norm(x, state, name + "0", 1e-6)
            x = patches(x, 2) @ flat_kernel(state, name + "1") + state[name + "1.bias"]
        for block in range(depth):
            x = x + reference_convnext_block(x, state, f"stages.{stage}.{block}.")
        if stage in stages:
            maps.append(layer_norm(x, state, f"norm{stage}", 1e-6).movedim(3, 1))
    return maps


def reference_convnext_block(x, state, prefix):
    height, width = x.shape[1:3]
    padded = torch.zeros(x.shape[0], height + 6, width + 6, x.shape[3], dtype=x.dtype)
    padded[:, 3:-3, 3:-3] = x
    kernel = state[prefix + "dwconv.weight"]
    y = state[prefix + "dwconv.bias"] + sum(
        padded[:, i : i + height, j : j + width] * kernel[:, 0, i, j] for i in range(7) for j in range(7)
    )
    y = linear(layer_norm(y, state, prefix + "norm", 1e-6), state, prefix + "pwconv1")
    return state[prefix + "gamma"] * linear(gelu(y), state, prefix + "pwconv2")


def patches(x, side):
    """[B, H, W, C] to [B, H // side, W // side, side * side * C]; what does not fill a patch is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // side * side, : width // side * side]
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).flatten(3)


def flat_kernel(state, name):
    return state[name + ".weight"].permute(2, 3, 1, 0).flatten(0, 2)


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def zero_padded(x, multiple):
    """[B, H, W, C] with zeros at the right and bottom up to the next multiple."""
    batch, height, width, channels = x.shape
    padded = torch.zeros(
        batch, -(-height // multiple) * multiple, -(-width // multiple) * multiple, channels, dtype=x.dtype
    )
    padded[:, :height, :width] = x
    return padded
