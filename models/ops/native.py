"""Multi-scale deformable attention in C++ for CPUs, forward and backward in one pass each: `native.cpp`.

Compiled by the machine's compiler at the first use (seconds). Deterministic: results depend neither on the run nor on
the number of threads, which is PyTorch's. For torch.compile it is one operation.

Shape letters: B images, S positions over all levels, M heads, D channels of a head, Q queries, L levels, P points.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Sequence  # noqa: UP035 PyTorch 2.6 reads the schema of an operation from these hints

import torch
from torch import Tensor

from models.ops.definition import Shapes
from models.ops.native_library import BuildError, load_library

SOURCE = Path(__file__).with_name("native.cpp")
# (type of the value, type of locations and weights) -> name of the functions
KINDS = {
    (torch.float32, torch.float32): "float32",
    (torch.float64, torch.float64): "float64",
    (torch.bfloat16, torch.float32): "bfloat16",
}


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As `definition.ms_deform_attn`, for tensors on the CPU; without second derivatives."""
    kind = value.dtype
    if (kind, locations.dtype) not in KINDS:
        value = value.to(locations.dtype)
    heights = [h for h, _ in shapes]
    widths = [w for _, w in shapes]
    return _forward(value, heights, widths, locations, weights.to(locations.dtype)).to(kind)


@cache
def why_not(device_type: str) -> str | None:
    """Why it cannot be used: it is for CPUs, and needs a C++ compiler at the first use; None if it can."""
    if device_type != "cpu":
        return "it is written for CPUs"
    try:
        _library()
    except BuildError as error:
        return str(error)
    return None


@cache
def _library() -> ctypes.CDLL:
    return load_library(SOURCE)


@torch.library.custom_op("dino_tbx11k::ms_deform_attn", mutates_args=(), device_types="cpu")
def _forward(
    value: Tensor, heights: Sequence[int], widths: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    b, _, m, d = value.shape
    out = value.new_empty(b, locations.shape[1], m * d)
    _call("forward", (heights, widths), (value.contiguous(), locations.contiguous(), weights.contiguous()), (out,))
    return out


@torch.library.custom_op("dino_tbx11k::ms_deform_attn_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_out: Tensor, value: Tensor, heights: Sequence[int], widths: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (value.contiguous(), locations.contiguous(), weights.contiguous())
    grad_value, grad_locations, grad_weights = (x.new_empty(x.shape) for x in inputs)
    _call("backward", (heights, widths), inputs, (grad_out.contiguous(), grad_value, grad_locations, grad_weights))
    return grad_value, grad_locations, grad_weights


def _call(
    name: str, sizes: tuple[Sequence[int], Sequence[int]], inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]
) -> None:
    """Run a function of the library.

    Args:
        name: "forward" or "backward".
        sizes: heights and widths of the levels.
        inputs: value, locations and weights, contiguous.
        others: the other arrays, contiguous: the result; or its gradient, then those of `inputs`.

    Raises:
        ValueError: shapes that do not fit; the library would read out of bounds.
        MemoryError: no memory for a copy of one head's value, and of its gradient, per thread.
    """
    value, locations, weights = inputs
    (b, s, m, d) = value.shape
    (_, q, _, levels, p, _) = locations.shape
    positions = sum(h * w for h, w in zip(*sizes, strict=True))
    fits = locations.shape == (b, q, m, len(sizes[0]), p, 2) and weights.shape == locations.shape[:-1]
    if not fits or s != positions or others[0].shape != (b, q, m * d):
        raise ValueError(
            f"value {tuple(value.shape)}, locations {tuple(locations.shape)} and weights {tuple(weights.shape)} do not "
            f"fit each other or levels of heights {list(sizes[0])} and widths {list(sizes[1])}"
        )
    function = _library()[f"{name}_{KINDS[value.dtype, locations.dtype]}"]
    arrays = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in ((b, s, m, d, q, levels, p), *sizes)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*inputs, *others)]
    if function(*arrays, *pointers, ctypes.c_int64(torch.get_num_threads())):
        raise MemoryError(f"deformable attention: no memory for {s} x {d} numbers per thread")


@_forward.register_fake
def _(value: Tensor, heights: Sequence[int], widths: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG001
    b, _, m, d = value.shape
    return value.new_empty(b, locations.shape[1], m * d)


@_backward.register_fake
def _(
    grad_out: Tensor,  # noqa: ARG001
    value: Tensor,
    heights: Sequence[int],  # noqa: ARG001
    widths: Sequence[int],  # noqa: ARG001
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (value, locations, weights))


def _keep_for_backward(ctx, inputs: tuple, output: Tensor) -> None:  # noqa: ARG001
    value, ctx.heights, ctx.widths, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    gradients = _backward(grad_out, value, ctx.heights, ctx.widths, locations, weights)
    return gradients[0], None, None, gradients[1], gradients[2]


_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
