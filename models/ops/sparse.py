"""Deformable attention as products with a sparse matrix: fast on CPUs, without a compiler.

Row (image, head, query) of the matrix holds the attention weights times the bilinear weights of the four cells around
each sampling point; the columns are the cells. Then
    out = A V,   dV = A^T dout,   dA = dout V^T at the places where A has entries,
and the gradients of locations and attention weights follow from dA by the chain rule. Each level has a border of
zeros, to which points outside are clamped.

PyTorch computes A V and dA; SciPy computes A^T dout, for which PyTorch would sort the matrix first, which takes 20
times as long as the product. Results do not depend on the order of threads: the same input gives the same bits.

Shape letters: B images, S positions over all levels, M heads, D channels of a head, Q queries, L levels, P points,
R = B * M * Q rows, K = L * P.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import scipy.sparse
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.definition import Shapes

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # it has been for years

CORNERS = 4
BORDER = 1


@torch.compiler.disable
def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As `models.ops.definition.ms_deform_attn`, up to rounding."""
    kind = locations.dtype
    return _SparseAttention.apply(value.to(kind), shapes, locations, weights.to(kind)).to(value.dtype)


def why_not(device_type: str) -> str | None:
    """Why it cannot be used: it needs a CPU and, for A V, the MKL; None if it can."""
    if device_type != "cpu":
        return "it is for CPUs"
    if not torch.backends.mkl.is_available():
        return "this build of PyTorch comes without MKL"
    return None


class _SparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        (b, _, m, d) = value.shape
        (_, q, _, *levels, _) = locations.shape
        cells = _with_border(value, shapes)
        first, fraction, is_inside = _corners(shapes, locations)
        blend = weights.transpose(1, 2).flatten(3).flatten(0, 2)
        ctx.shapes = shapes
        ctx.sizes = (b, m, q, *levels)
        ctx.save_for_backward(cells, first, fraction, is_inside, blend)
        out = _matrix(first, fraction, blend, cells, shapes) @ cells.flatten(0, 1)
        return out.view(b, m, q, d).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        cells, first, fraction, is_inside, blend = ctx.saved_tensors
        b, m = ctx.sizes[:2]
        grad = grad.unflatten(2, (m, -1)).transpose(1, 2).flatten(0, 2)  # [R, D]
        matrix = _matrix(first, fraction, blend, cells, ctx.shapes)
        entries = torch.sparse.sampled_addmm(matrix, grad, cells.flatten(0, 1).t(), beta=0.0).values()
        entries = entries.view(*blend.shape[:1], CORNERS, *blend.shape[1:])
        grad_points, grad_weights = _chain(entries, fraction, is_inside, blend)
        widths_heights = grad.new_tensor([(w, h) for h, w in ctx.shapes])[:, None]  # [L, 1, 2]
        grad_locations = grad_points.view(2, *ctx.sizes).permute(1, 3, 2, 4, 5, 0) * widths_heights
        grad_value = _without_border(_transposed_product(matrix, grad, b * m), ctx.shapes)
        grad_weights = grad_weights.view(ctx.sizes).transpose(1, 2)
        return grad_value.unflatten(0, (b, m)).transpose(1, 2), None, grad_locations, grad_weights


def _with_border(value: Tensor, shapes: Shapes) -> Tensor:
    """[B, S, M, D] -> [B * M, S', D], each level with a border of zeros around it."""
    b, _, m, d = value.shape
    cells = value.new_zeros(b * m, sum((h + 2 * BORDER) * (w + 2 * BORDER) for h, w in shapes), d)
    levels = value.transpose(1, 2).split([h * w for h, w in shapes], dim=2)
    for inner, level, (h, w) in zip(_inner(cells, shapes), levels, shapes, strict=True):
        inner.view(b, m, h, w, d).copy_(level.view(b, m, h, w, d))
    return cells


def _without_border(cells: Tensor, shapes: Shapes) -> Tensor:
    """[B * M, S', D] -> [B * M, S, D]."""
    return torch.cat([inner.flatten(1, 2) for inner in _inner(cells, shapes)], dim=1)


def _inner(cells: Tensor, shapes: Shapes) -> list[Tensor]:
    """Per level the view [B * M, h, w, D] without the border."""
    grids = [(h + 2 * BORDER, w + 2 * BORDER) for h, w in shapes]
    levels = cells.split([h * w for h, w in grids], dim=1)
    return [
        level.unflatten(1, grid)[:, BORDER:-BORDER, BORDER:-BORDER] for level, grid in zip(levels, grids, strict=True)
    ]


def _corners(shapes: Shapes, locations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the points of each row lie between their four cells.

    Returns:
        first [R, K] int32: upper left cell among those of the row's head; fraction [2, R, K], x and y: the way to the
        next cell; is_inside [2, R, K]: False where the point is so far outside that its gradient is zero.
    """
    p = locations.shape[4]
    by_head = locations.transpose(1, 2).flatten(3, 4).flatten(0, 2)  # [R, K, 2]
    sizes = locations.new_tensor([(w, h) for h, w in shapes]).t().repeat_interleave(p, dim=1)  # [2, K]
    halves = sizes / 2
    # the same roundings as in grid_sample: at first every point sits on a cell's centre, where the slope has two values
    points = torch.stack([(2 * by_head[..., axis] - 1 + 1) * halves[axis] - 0.5 for axis in (0, 1)])
    sizes = sizes[:, None]
    is_inside = (points >= -BORDER) & (points < sizes)
    points = torch.minimum(points.clamp_(min=-BORDER), sizes)
    low = torch.minimum(points.floor(), sizes - BORDER)
    fraction = points.sub_(low)
    low += BORDER  # cell 0 of the level is cell 1 behind the border
    starts = torch.tensor([0, *((h + 2 * BORDER) * (w + 2 * BORDER) for h, w in shapes)])[:-1].cumsum(0)
    first = torch.addcmul(low[0], low[1], sizes[0] + 2 * BORDER).nan_to_num_(0.0)  # no cell is at NaN
    return first.to(torch.int32).add_(starts.to(torch.int32).repeat_interleave(p)), fraction, is_inside


def _matrix(first: Tensor, fraction: Tensor, blend: Tensor, cells: Tensor, shapes: Shapes) -> Tensor:
    """The sparse matrix [R, B * M * S'], its entries in the order [R, 4 corners, K]."""
    heads, num_cells, _ = cells.shape
    rows, k = first.shape
    p = k // len(shapes)
    below = torch.tensor([w + 2 * BORDER for _, w in shapes], dtype=torch.int32).repeat_interleave(p)
    of_head = torch.arange(0, heads * num_cells, num_cells, dtype=torch.int32)[:, None, None]
    first = (first.view(heads, rows // heads, k) + of_head).flatten(0, 1)
    columns = torch.stack((first, first + 1, first + below, first + (below + 1)), dim=1)
    (right, down) = fraction
    left = 1 - fraction[0]
    lower = down * blend
    upper = blend - lower
    entries = torch.stack((upper * left, upper * right, lower * left, lower * right), dim=1)
    width = CORNERS * k
    starts = torch.arange(0, rows * width + 1, width, dtype=torch.int32)
    size = (rows, heads * num_cells)
    return torch.sparse_csr_tensor(starts, columns.flatten(), entries.flatten(), size, check_invariants=False)


def _transposed_product(matrix: Tensor, grad: Tensor, heads: int) -> Tensor:
    """A^T dout, [B * M, S', D]: a product for each head, which has rows and columns of its own."""
    rows = len(grad) // heads
    num_cells = matrix.shape[1] // heads
    starts = matrix.crow_indices()[: rows + 1].numpy()
    columns, entries = (x.view(heads, len(x) // heads).numpy() for x in (matrix.col_indices(), matrix.values()))
    grads = grad.view(heads, rows, grad.shape[1]).numpy()
    out = grad.new_empty(heads, num_cells, grad.shape[1])
    target = out.numpy()

    def multiply(head: int) -> None:
        block = scipy.sparse.csr_array(
            (entries[head], columns[head] - head * num_cells, starts), shape=(rows, num_cells)
        )
        target[head] = block.T @ grads[head]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(multiply, range(heads)))
    return out


def _chain(entries: Tensor, fraction: Tensor, is_inside: Tensor, blend: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of the matrix's entries [R, 4, K] to those of the points [2, R, K], in cells, and weights."""
    upper_left, upper_right, lower_left, lower_right = entries.unbind(1)
    right, down = fraction
    upper = torch.lerp(upper_left, upper_right, right)
    lower = torch.lerp(lower_left, lower_right, right)
    grad_x = torch.lerp(upper_right - upper_left, lower_right - lower_left, down)
    points = torch.stack((grad_x, lower - upper)).mul_(blend).mul_(is_inside)
    return points, torch.lerp(upper, lower, down)
