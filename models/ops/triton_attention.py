"""Deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) by GPU kernels, forward and backward.

The definition copies every level, samples each point into memory and sums the samples; here one kernel reads the four
cells around each point and sums in registers. A second kernel computes all gradients: of locations and weights by sums
over the channels, of the value by atomic additions to the four cells. Sums are float32 for all types; only the inputs
are kept for the backward pass.

Deterministic are the output and the gradients of locations and weights, once the kernels' sizes are tuned on a device
(in its first call for each network and type). The atomic additions come in any order, so the last bits of the value's
gradient differ between runs. Under torch.use_deterministic_algorithms PyTorch sums it in a fixed order instead, several
times slower, and sizes are not tuned.

The kernels are operators of PyTorch (`dino::ms_deform_attn`), so torch.compile takes them as they are. Triton is
imported when this backend is first used. With TRITON_INTERPRET=1, set before that, kernels run on the CPU, slowly: for
tests.

Shape letters: B images, S positions over all levels, M heads, D channels of a head,
Q queries, L levels, P points.
"""

from functools import lru_cache
from typing import Sequence  # noqa: UP035 PyTorch 2.6 reads the schema of an operation from these hints

import torch
from torch import Tensor

from models.ops.definition import Shapes
from util.base.errors import UserError

HALF_OR_SINGLE = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # compute capability that Triton supports


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample each query's points from every level and sum them by their weights: the contract of `definition`.

    Args:
        value: [B, S, M, D] with S = sum of h * w over `shapes`; float32, bfloat16 or float16.
        shapes: (h, w) of each of the L levels.
        locations: [B, Q, M, L, P, 2] float32, x and y in [0, 1] edge to edge of the level; outside samples are zero.
        weights: [B, Q, M, L, P]; float32, bfloat16 or float16.

    Returns:
        [B, Q, M * D] in the type of `value`.

    Raises:
        UserError: another type, as float64.
        ValueError: shapes that contradict each other.
    """
    b, s, m, _ = value.shape
    if not (value.dtype in HALF_OR_SINGLE and weights.dtype in HALF_OR_SINGLE and locations.dtype == torch.float32):
        raise UserError(
            "attn_backend 'triton' computes with values and weights in float32, bfloat16 or float16 and locations in "
            f"float32, got {value.dtype}, {weights.dtype} and {locations.dtype}; attn_backend='torch' takes every type"
        )
    # the kernels would read past the end of a tensor
    expected = (b, locations.shape[1], m, len(shapes))
    if s != sum(h * w for h, w in shapes) or not tuple(locations.shape[:4]) == tuple(weights.shape[:4]) == expected:
        raise ValueError(f"value {value.shape}, locations {locations.shape}, weights {weights.shape}, levels {shapes}")
    return _attend(value, [side for shape in shapes for side in shape], locations, weights)


def why_not(device_type: str) -> str | None:
    """Why these kernels cannot be used on "cpu" or "cuda", tested by running a first one; None if they can."""
    try:
        from models.ops import triton_kernels
    except ModuleNotFoundError as error:
        return f"the package {error.name} is not installed: pip install {error.name}"
    if device_type == "cpu":
        reason = "it needs a CUDA device (TRITON_INTERPRET=1 lets kernels run on a CPU, slowly, for tests)"
        return None if triton_kernels.IS_INTERPRETED else reason
    if not torch.cuda.is_available():
        return "it needs a CUDA device"
    if triton_kernels.IS_INTERPRETED:
        return "TRITON_INTERPRET=1 keeps kernels on the CPU: unset it"
    if torch.version.hip is None and (capability := torch.cuda.get_device_capability()) < OLDEST:
        oldest, this = (".".join(map(str, version)) for version in (OLDEST, capability))
        return f"it needs a GPU of compute capability {oldest} or later, this one has {this}"
    try:
        triton_kernels.probe(device_type)
    except triton_kernels.FAILURES as error:
        return f"a first kernel failed: {' '.join(str(error).split()) or type(error).__name__}"
    return None


@torch.library.custom_op(
    "dino::ms_deform_attn",
    mutates_args=(),
    schema="(Tensor value, SymInt[] sides, Tensor locations, Tensor weights) -> Tensor",
)
def _attend(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    from models.ops import triton_kernels

    levels = _levels(tuple(sides), value.device)
    tuned = not torch.are_deterministic_algorithms_enabled()
    return triton_kernels.forward(value.contiguous(), levels, locations.contiguous(), weights.contiguous(), tuned=tuned)


@_attend.register_fake
def _(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG001
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op(
    "dino::ms_deform_attn_backward",
    mutates_args=(),
    schema="(Tensor grad_out, Tensor value, SymInt[] sides, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
)
def _gradients(
    grad_out: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from models.ops import triton_kernels

    grad_out, value, locations, weights = (x.contiguous() for x in (grad_out, value, locations, weights))
    levels = _levels(tuple(sides), value.device)
    fixed = torch.are_deterministic_algorithms_enabled()
    grad_value, grad_locations, grad_weights = triton_kernels.backward(
        grad_out, value, levels, locations, weights, scatter=not fixed, tuned=not fixed
    )
    if fixed:
        grad_value = _scatter_in_order(grad_out, value, sides, locations, weights)
    return grad_value.to(value.dtype), grad_locations, grad_weights


@_gradients.register_fake
def _(grad_out: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor):  # noqa: ARG001
    like = torch.contiguous_format
    return tuple(torch.empty_like(tensor, memory_format=like) for tensor in (value, locations, weights))


def _keep(ctx, inputs, output) -> None:  # noqa: ARG001 PyTorch names them
    value, ctx.sides, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx, grad_out: Tensor):
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _gradients(grad_out, value, ctx.sides, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_attend.register_autograd(_differentiate, setup_context=_keep)


@lru_cache(maxsize=4096)
def _levels(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """h, w and first position of each level [L, 3] int32; made once per image size, without synchronisation."""
    rows = []
    start = 0
    for h, w in zip(sides[::2], sides[1::2], strict=True):
        rows.append((h, w, start))
        start += h * w
    table = torch.tensor(rows, dtype=torch.int32)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _scatter_in_order(
    grad_out: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Gradient of the value [B, S, M, D] in float32, summed by PyTorch in a fixed order."""
    b, s, m, d = value.shape
    grads = grad_out.view(b, -1, m, 1, d).float()
    images = torch.arange(b, device=value.device).view(b, 1, 1, 1)
    heads = torch.arange(m, device=value.device).view(m, 1)
    total = torch.zeros(b * s * m, d, device=value.device)
    start = 0
    for level, (h, w) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        for point in range(locations.shape[4]):
            cells, shares = _corners(locations[:, :, :, level, point], h, w)  # [B, Q, M, 4]
            rows = (images * s + start + cells) * m + heads
            blend = shares * weights[:, :, :, level, point, None].float()
            total.index_add_(0, rows.flatten(), (blend[..., None] * grads).view(-1, d))
        start += h * w
    return total.view(b, s, m, d)


def _corners(locations: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """The four cells around each of [..., 2] points, as places in an h x w map, and their shares, 0 outside."""
    x = locations[..., 0, None] * w - 0.5
    y = locations[..., 1, None] * h - 0.5
    corner = torch.arange(4, device=x.device)
    columns = x.floor() + corner % 2
    lines = y.floor() + corner // 2
    is_inside = (columns >= 0) & (columns < w) & (lines >= 0) & (lines < h)
    shares = (1 - (x - columns).abs()) * (1 - (y - lines).abs())
    cells = lines.clamp(0, h - 1).long() * w + columns.clamp(0, w - 1).long()
    return cells, shares.where(is_inside, 0)
