"""The GPU kernels of deformable attention, in Triton; called by `triton_attention`, which explains them.

One program serves one head of one image and BLOCK_Q neighbouring queries, whose points lie close together, so that
the cells which one query reads are still in the cache for the next. Channels lie along the threads of a warp: a cell
of a head is one stretch of memory.

What belongs to the network (heads, channels, levels, points) is compiled in. What belongs to an image (sides of the
maps, number of positions and queries) is data: another image size needs no other program.

Shape letters: B images, S positions over all levels, M heads, D channels of a head,
Q queries, L levels, P points.
"""

import subprocess
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# errors of a kernel without its tools: no C compiler, no headers, no driver, a GPU too old
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError, triton.TritonError)
# (queries of a program, its warps): four or eight channels to a thread at D = 32, so that cells are read and added to
# 16 bytes at a time without shared memory; tuning chooses the fastest on the device
CHOICES = ((8, 2), (16, 4), (16, 2), (32, 4))
FIXED = {"BLOCK_Q": 16, "num_warps": 4}  # where the order of sums shall not depend on a measurement


@triton.jit
def _double(numbers):
    where = tl.arange(0, 16)
    tl.store(numbers + where, 2 * tl.load(numbers + where))


@triton.jit
def _read_sides(sides, level):
    """Height, width and first position of a level."""
    return tl.load(sides + 3 * level), tl.load(sides + 3 * level + 1), tl.load(sides + 3 * level + 2)


@triton.jit
def _write_rows(rows, numbers, is_query, column, num_columns):
    """The first columns of numbers, a row for each query."""
    tl.store(rows + column, numbers, mask=is_query[:, None] & (column < num_columns))


@triton.jit
def _read_point(locations, weights, point, is_query, w, h):
    """Position in cells, the centre of the first cell being (0, 0), and weight of one point of every query."""
    # A query past the end samples left of the map: zeros. The roundings are those of grid_sample: at the start
    # of training every point sits on the centre of a cell, where the slope has two values.
    x = (2 * tl.load(locations + 2 * point, mask=is_query, other=-1.0).to(tl.float32) - 1 + 1) * (w * 0.5) - 0.5
    y = (2 * tl.load(locations + 2 * point + 1, mask=is_query, other=-1.0).to(tl.float32) - 1 + 1) * (h * 0.5) - 0.5
    return x, y, tl.load(weights + point, mask=is_query, other=0.0).to(tl.float32)


@triton.jit
def _corner(x, y, w, h, right: tl.constexpr, below: tl.constexpr):
    """One of the four cells around each point: its place in the map, whether there is one, how near in x and y."""
    column = tl.floor(x) + right
    line = tl.floor(y) + below
    # in floating point, where what is not finite compares false
    is_inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
    cell = line.to(tl.int32) * w + column.to(tl.int32)
    return cell, is_inside, 1 - tl.abs(x - column), 1 - tl.abs(y - line)


@triton.jit(do_not_specialize=["num_positions", "num_queries"])
def _forward(
    value,  # [B, S, M, D]
    sides,  # [L, 3] int32: h, w, first position
    locations,  # [B, Q, M, L, P, 2]
    weights,  # [B, Q, M, L, P]
    out,  # [B, Q, M, D]
    num_positions,
    num_queries,
    HEADS: tl.constexpr,  # noqa: N803 Triton's custom for what is compiled in
    CHANNELS: tl.constexpr,  # noqa: N803
    BLOCK_D: tl.constexpr,  # noqa: N803 a power of two >= CHANNELS and 2 * POINTS
    LEVELS: tl.constexpr,  # noqa: N803
    POINTS: tl.constexpr,  # noqa: N803
    BLOCK_Q: tl.constexpr,  # noqa: N803
):
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)  # a batch may hold more numbers than 32 bits count
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    is_query = query < num_queries
    is_channel = channel < CHANNELS
    values = value + image * num_positions * (HEADS * CHANNELS) + head * CHANNELS
    locations += image * num_queries * (HEADS * LEVELS * POINTS * 2)
    weights += image * num_queries * (HEADS * LEVELS * POINTS)
    blend = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for level in range(LEVELS):
        h, w, start = _read_sides(sides, level)
        cells = values + start * (HEADS * CHANNELS)
        for p in tl.static_range(POINTS):
            point = ((query * HEADS + head) * LEVELS + level) * POINTS + p
            x, y, weight = _read_point(locations, weights, point, is_query, w, h)
            for corner in tl.static_range(4):
                cell, is_inside, near_x, near_y = _corner(x, y, w, h, corner % 2, corner // 2)
                address = cells + cell[:, None] * (HEADS * CHANNELS) + channel
                sample = tl.load(address, mask=is_inside[:, None] & is_channel, other=0.0).to(tl.float32)
                blend += (weight * near_x * near_y)[:, None] * sample
    out += image * num_queries * (HEADS * CHANNELS) + head * CHANNELS
    tl.store(out + query[:, None] * (HEADS * CHANNELS) + channel, blend, mask=is_query[:, None] & is_channel)


@triton.jit(do_not_specialize=["num_positions", "num_queries"])
def _backward(
    grad_out,  # [B, Q, M, D]
    value,
    sides,
    locations,
    weights,
    grad_value,  # [B, S, M, D] float32, zeros; unused unless SCATTER
    grad_locations,  # like locations
    grad_weights,  # like weights
    num_positions,
    num_queries,
    HEADS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    BLOCK_D: tl.constexpr,  # noqa: N803
    LEVELS: tl.constexpr,  # noqa: N803
    POINTS: tl.constexpr,  # noqa: N803
    SCATTER: tl.constexpr,  # noqa: N803
    BLOCK_Q: tl.constexpr,  # noqa: N803
):
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    is_query = query < num_queries
    is_channel = channel < CHANNELS
    first_value = image * num_positions * (HEADS * CHANNELS) + head * CHANNELS
    first_point = image * num_queries * (HEADS * LEVELS * POINTS)
    grad_out += image * num_queries * (HEADS * CHANNELS) + head * CHANNELS
    grad_rows = grad_out + query[:, None] * (HEADS * CHANNELS) + channel
    grads = tl.load(grad_rows, mask=is_query[:, None] & is_channel, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        h, w, start = _read_sides(sides, level)
        first_cell = first_value + start * (HEADS * CHANNELS)
        # a column for each number, written in one go
        to_locations = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
        to_weights = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
        for p in tl.static_range(POINTS):
            point = ((query * HEADS + head) * LEVELS + level) * POINTS + p
            x, y, weight = _read_point(locations + 2 * first_point, weights + first_point, point, is_query, w, h)
            along_x = tl.zeros_like(x)
            along_y = tl.zeros_like(x)
            along_weight = tl.zeros_like(x)
            for corner in tl.static_range(4):
                cell, is_inside, near_x, near_y = _corner(x, y, w, h, corner % 2, corner // 2)
                place = cell[:, None] * (HEADS * CHANNELS) + channel
                is_there = is_inside[:, None] & is_channel
                sample = tl.load(value + first_cell + place, mask=is_there, other=0.0).to(tl.float32)
                product = tl.sum(grads * sample, axis=1)
                along_weight += near_x * near_y * product
                along_x += (2 * (corner % 2) - 1) * near_y * product
                along_y += (2 * (corner // 2) - 1) * near_x * product
                if SCATTER:
                    share = (weight * near_x * near_y)[:, None] * grads
                    tl.atomic_add(grad_value + first_cell + place, share, mask=is_there, sem="relaxed")
            to_locations = tl.where(channel == 2 * p, (along_x * weight * w)[:, None], to_locations)
            to_locations = tl.where(channel == 2 * p + 1, (along_y * weight * h)[:, None], to_locations)
            to_weights = tl.where(channel == p, along_weight[:, None], to_weights)
        place = ((query * HEADS + head) * LEVELS + level)[:, None] * POINTS
        _write_rows(grad_locations + 2 * (first_point + place), to_locations, is_query, channel, 2 * POINTS)
        _write_rows(grad_weights + first_point + place, to_weights, is_query, channel, POINTS)


IS_INTERPRETED = not isinstance(_forward, triton.JITFunction)  # by TRITON_INTERPRET=1, when this file was imported
NETWORK = ["HEADS", "CHANNELS", "LEVELS", "POINTS"]
CONFIGS = [triton.Config({"BLOCK_Q": queries}, num_warps=warps) for queries, warps in CHOICES]


def probe(device_type: str) -> None:
    """Run a first kernel and wait for it.

    Raises:
        FAILURES: this machine cannot compile or run kernels.
    """
    numbers = torch.ones(16, device=device_type)
    _double[(1,)](numbers, enable_fp_fusion=True)
    if not bool((numbers == 2).all()):
        raise RuntimeError("a first kernel computed wrong numbers")


def forward(value: Tensor, sides: Tensor, locations: Tensor, weights: Tensor, tuned: bool) -> Tensor:
    """The output of deformable attention.

    Args:
        value: [B, S, M, D]; this and all others contiguous and on one device.
        sides: [L, 3] int32, h, w and first position of each level.
        locations: [B, Q, M, L, P, 2].
        weights: [B, Q, M, L, P].
        tuned: let the first call measure what fits this device best.

    Returns:
        [B, Q, M * D] in the type of `value`.
    """
    b, s, m, d = value.shape
    out = value.new_empty(b, locations.shape[1], m * d)
    _launch(_tuned(_forward) if tuned else _forward, value, locations, (value, sides, locations, weights, out, s))
    return out


def backward(
    grad_out: Tensor, value: Tensor, sides: Tensor, locations: Tensor, weights: Tensor, scatter: bool, tuned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `forward` for a gradient [B, Q, M * D] of its output.

    Args:
        grad_out, value, sides, locations, weights, tuned: as there.
        scatter: compute that of `value` too, by atomic additions: in an order that differs between runs.

    Returns:
        For value [B, S, M, D] in float32, without `scatter` a single zero; for locations and for weights, like these.
    """
    grad_value = torch.zeros(value.shape if scatter else (1,), dtype=torch.float32, device=value.device)
    gradients = (grad_value, torch.empty_like(locations), torch.empty_like(weights))
    tensors = (grad_out, value, sides, locations, weights, *gradients)
    kernel = _tuned(_backward, "grad_value") if tuned else _backward
    _launch(kernel, value, locations, (*tensors, value.shape[1]), SCATTER=scatter)
    return gradients


@cache
def _tuned(kernel, *added_to: str):
    """The kernel in the size that was fastest in the first call; made late, since Triton may look for a GPU for it."""
    if IS_INTERPRETED:
        return kernel
    return triton.autotune(CONFIGS, key=NETWORK, reset_to_zero=list(added_to))(kernel)


def _launch(kernel, value: Tensor, locations: Tensor, arguments: tuple, **constants: int) -> None:
    b, q, m, levels, points, _ = locations.shape
    if locations.numel() == 0:
        return
    d = value.shape[3]
    constants |= {"HEADS": m, "CHANNELS": d, "BLOCK_D": triton.next_power_of_2(max(d, 2 * points))}
    constants |= {"LEVELS": levels, "POINTS": points, "enable_fp_fusion": True}
    if not isinstance(kernel, triton.runtime.Autotuner):
        constants |= FIXED
    with torch.cuda.device_of(locations):
        kernel[lambda chosen: (triton.cdiv(q, chosen["BLOCK_Q"]), b * m)](*arguments, q, **constants)
