"""Multi-scale deformable attention by gathering the four cells around each point, under torch.compile.

Needs what torch.compile needs: a C++ compiler for a CPU, Triton for a GPU. Compiled for any size of image: the sizes of
the levels are a tensor.

Shape letters: B images, S positions over all levels, M heads, D channels of a head, Q queries, L levels, P points.
"""

from functools import cache

import torch
from torch import Tensor

from models.ops import compiler
from models.ops.definition import Shapes
from util.detection.batch import on_device


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """What `definition.ms_deform_attn` says."""
    sizes = on_device(torch.tensor(shapes), value.device)
    return _compiled()(value, sizes, locations, weights)


def why_not(device_type: str) -> str | None:
    """What stands against it: torch.compile is tried on the device once (seconds)."""
    reason = compiler.why_not(device_type)
    return reason and f"torch.compile fails there ({reason})"


@cache
def _compiled():
    compiler.allow_programs()
    return torch.compile(gather_and_blend, dynamic=True)


def gather_and_blend(value: Tensor, sizes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The attention, to be compiled.

    Args:
        value: [B, S, M, D].
        sizes: [L, 2] integers, (h, w) of each level.
        locations: [B, Q, M, L, P, 2].
        weights: [B, Q, M, L, P].

    Returns:
        [B, Q, M * D] in the type of `value`.
    """
    b, _, m, _ = value.shape
    places, shares, inside = _corners(sizes, locations, weights.to(locations.dtype))
    image = torch.arange(b, device=value.device)[:, None, None, None]
    head = torch.arange(m, device=value.device)[:, None]
    cells = value[image, places.flatten(3), head].to(locations.dtype)  # [B, Q, M, L * P * 4, D]
    # chosen, not multiplied by zero: the cell that stands for one outside may hold a NaN
    cells = torch.where(inside.flatten(3)[..., None], cells, 0)
    return (cells * shares.flatten(3)[..., None]).sum(3).flatten(2).to(value.dtype)


def _corners(sizes: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Position in [0, S), share of the result, and whether it lies in its level: of four cells [B, Q, M, L, P, 4]."""
    h, w = sizes[:, 0, None], sizes[:, 1, None]  # [L, 1]
    areas = sizes[:, 0] * sizes[:, 1]
    start = (areas.cumsum(0) - areas)[:, None]
    # the roundings of grid_sample: at first every point sits on the centre of a cell, where the slope has two values
    x, y = (2 * locations[..., 0] - 1 + 1) * (w / 2) - 0.5, (2 * locations[..., 1] - 1 + 1) * (h / 2) - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    fx, fy = x - left, y - top
    places, shares, inside = [], [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, line = left + right, top + down
        is_inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
        place = start + torch.where(is_inside, line, 0).long() * w + torch.where(is_inside, column, 0).long()
        places.append(torch.where(is_inside, place, 0))
        shares.append(weights * (fx if right else 1 - fx) * (fy if down else 1 - fy))
        inside.append(is_inside)
    return torch.stack(places, -1), torch.stack(shares, -1), torch.stack(inside, -1)
