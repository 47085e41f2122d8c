"""Attention of the decoder: a panel per layer, with the boxes and the sampling points of one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from util.plots.boxes import DASHED, DOTTED, OUTLINE, SOLID, draw_box, draw_page, legend_line, show_image

BOX_COLOR = "#ffa21f"
REFERENCE_COLOR = "#ffffff"
FINAL_COLOR = "#5dff6e"
LEVEL_COLORS = ("#4fc3ff", "#ffe14d", "#ff7ad9", "#b39dff", "#ff6b5e")  # fine to coarse; bright on grey
LEGEND = (
    ("box that the layer starts from", REFERENCE_COLOR, DASHED),
    ("box after the layer", BOX_COLOR, SOLID),
    ("final box", FINAL_COLOR, SOLID),
)
# areas, points squared
LARGEST_POINT = 60.0
SMALLEST_POINT = 8.0
NOTICE = "research use, not a medical device"
MARGIN = 0.4  # around all boxes, as a share of their longer side


@dataclass(frozen=True)
class LayerPanel:
    """One layer. Boxes are xyxy, everything in pixels of the image."""

    title: str
    reference: NDArray  # [4]
    box: NDArray  # [4]
    points: NDArray  # [N, 2]
    weights: NDArray  # [N]
    levels: NDArray  # [N] from 0 on


def draw_attention(
    image: NDArray[np.uint8], layers: Sequence[LayerPanel], cells: Sequence[float], title: str
) -> Figure:
    """Draw the whole X-ray with the final box, then for each layer the part of it around the boxes.

    Args:
        image: [H, W] or [H, W, 3].
        layers: first to last; the box of the last one is the final box.
        cells: side of a cell of each level, pixels of the image.
        title: of the page.
    """
    num = len(layers) + 1
    legend = [legend_line(*entry) for entry in LEGEND]
    legend += [_legend_point(level, side) for level, side in enumerate(cells)]
    note = f"a larger point has a larger weight; {NOTICE}"
    figure, (whole, *others) = draw_page(title, num, num if num <= 4 else -(-num // 2), legend, note)
    final = layers[-1].box
    part = _part_around(layers, image.shape[:2])
    show_image(whole, image, "final box, and the part shown for each layer")
    draw_box(whole, final, FINAL_COLOR, SOLID)
    draw_box(whole, part, REFERENCE_COLOR, DOTTED)
    strongest = max(float(layer.weights.max()) for layer in layers)
    for axes, layer in zip(others, layers, strict=True):
        show_image(axes, image, layer.title)
        axes.set_xlim(part[0], part[2])
        axes.set_ylim(part[3], part[1])
        _draw_points(axes, layer, strongest)
        draw_box(axes, final, FINAL_COLOR, SOLID, 1.2)
        draw_box(axes, layer.reference, REFERENCE_COLOR, DASHED)
        draw_box(axes, layer.box, BOX_COLOR, SOLID)
    return figure


def _part_around(layers: Sequence[LayerPanel], size: tuple[int, ...]) -> NDArray[np.float64]:
    """[4] xyxy: the part of the image around all boxes, square where the image allows it."""
    boxes = np.stack([box for layer in layers for box in (layer.reference, layer.box)])
    low = boxes[:, :2].min(axis=0)
    high = boxes[:, 2:].max(axis=0)
    limit = np.array(size[::-1], dtype=float)
    side = np.minimum((high - low).max() * (1 + 2 * MARGIN), limit)
    start = np.clip((low + high) / 2 - side / 2, 0, limit - side)
    return np.concatenate([start, start + side])


def _draw_points(axes: Axes, layer: LayerPanel, strongest: float) -> None:
    order = np.argsort(layer.weights, kind="stable")  # the strongest on top
    share = layer.weights[order] / strongest
    x, y = layer.points[order].T
    colors = to_rgba_array([LEVEL_COLORS[level % len(LEVEL_COLORS)] for level in layer.levels[order]])
    colors[:, 3] = 0.35 + 0.65 * share
    sizes = SMALLEST_POINT + (LARGEST_POINT - SMALLEST_POINT) * share
    edges = [(0.0, 0.0, 0.0, alpha) for alpha in colors[:, 3].tolist()]
    axes.scatter(x, y, s=sizes, c=colors, edgecolors=edges, linewidths=0.5, zorder=2)


def _legend_point(level: int, side: float) -> Line2D:
    color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
    label = f"points, cells of {side:.3g} px"
    return Line2D([], [], ls="none", marker="o", ms=6, mfc=color, mec=OUTLINE, label=label)
