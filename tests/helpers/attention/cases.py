"""Deformable attention of random tensors, and how far a backend is from the definition."""

import math

import torch

from models.ops.definition import ms_deform_attn

SHAPES = [[(1, 1)], [(3, 7), (1, 1)], [(8, 6), (4, 3), (1, 2)], [(5, 4), (3, 2), (2, 1), (1, 1)], [(4, 4)] * 5]


def inputs(seed, shapes, channels, dtype=torch.float32, queries=7, images=2, heads=3, points=3):
    """value, locations and weights; two thirds of the points lie inside, and none where the gradient jumps."""
    generator = torch.Generator().manual_seed(seed)
    size = (images, queries, heads, len(shapes), points)
    value = torch.randn(images, sum(h * w for h, w in shapes), heads, channels, generator=generator)
    cells = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)[:, None]
    at = torch.rand(*size, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    # between the centres of two cells, at least 2 % of their distance away from either
    pixels = (at * cells - 0.5).floor() + 0.02 + 0.96 * torch.rand(*size, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(*size, generator=generator)
    weights = weights / weights.sum((-1, -2), keepdim=True)
    return value.to(dtype), ((pixels + 0.5) / cells).to(dtype), weights.to(dtype)


def results(attend, tensors, shapes, seed=0):
    """Output, and gradients of value, locations and weights, of a random linear function of the output."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = attend(leaves[0], shapes, *leaves[1:])
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_near(found, wanted, of_output, of_gradients):
    """Relative to the largest entry."""
    for name, ours, theirs in zip(("output", "value", "locations", "weights"), found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        largest = theirs.double().abs().max().item() if theirs.numel() else 0.0
        error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
        limit = of_output if name == "output" else of_gradients
        assert math.isfinite(error), name
        assert error <= limit * max(largest, 1e-3), f"{name}: {error} of {largest}"


def assert_like_the_definition(attend, tensors, shapes, of_output=1e-5, of_gradients=1e-4):
    assert_near(results(attend, tensors, shapes), results(ms_deform_attn, tensors, shapes), of_output, of_gradients)
