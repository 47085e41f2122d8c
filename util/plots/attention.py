"""Where a decoder looks: a panel per layer, with the boxes of one query and its sampling points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray

from util.plots.style import set_page_title

BOX = "#ffa21f"
REFERENCE = "#ffffff"
FINAL = "#5dff6e"
CASING = "#000000"
LEVEL_COLORS = (
    "#4fc3ff",
    "#ffe14d",
    "#ff7ad9",
    "#b39dff",
    "#ff6b5e",
)  # fine to coarse; bright on grey, apart from each other
DASHED = (0, (4, 2))
DOTTED = (0, (1, 1.5))
PANEL_INCHES = 3.9
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
    image: NDArray[np.uint8], panels: Sequence[LayerPanel], cells: Sequence[float], title: str
) -> Figure:
    """The whole X-ray with the final box, then a part of it around the boxes for each layer.

    Args:
        image: [H, W] or [H, W, 3].
        panels: first to last layer; the last one's box is the final one.
        cells: side of a cell of each level, pixels of the image.
        title: over all.
    """
    columns = min(4, len(panels) + 1) if len(panels) < 4 else -(-(len(panels) + 1) // 2)
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(columns * PANEL_INCHES, rows * (PANEL_INCHES + 0.3) + 1.0), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.01, hspace=0.02)
    set_page_title(figure, title, round(9.5 * columns * PANEL_INCHES))
    whole, *others = figure.subplots(rows, columns, squeeze=False).ravel()
    final = panels[-1].box
    frame = _frame(panels, image.shape[:2])
    _show(whole, image, "final box, and the part shown for each layer", (0, 0, image.shape[1], image.shape[0]))
    _draw_box(whole, final, FINAL, "-")
    _draw_box(whole, frame, REFERENCE, DOTTED)
    strongest = max(float(panel.weights.max()) for panel in panels)
    for axes, panel in zip(others, panels, strict=False):
        _show(axes, image, panel.title, frame)
        _draw_points(axes, panel, strongest)
        _draw_box(axes, final, FINAL, "-", 1.2)
        _draw_box(axes, panel.reference, REFERENCE, DASHED)
        _draw_box(axes, panel.box, BOX, "-")
    for axes in others[len(panels) :]:
        axes.set_axis_off()
    handles = _legend(cells)
    num_columns = -(-len(handles) // 3)  # three to a column: the boxes stand apart from the points
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=num_columns, fontsize=9.5, frameon=False)
    legend.set_title(f"a larger point counts more; {NOTICE}", {"size": 8.5})
    return figure


def _frame(panels: Sequence[LayerPanel], size: tuple[int, int]) -> NDArray:
    """[4]: the part of the image around all boxes, square where the image allows it."""
    boxes = np.stack([box for panel in panels for box in (panel.reference, panel.box)])
    low = boxes[:, :2].min(axis=0)
    high = boxes[:, 2:].max(axis=0)
    centre = (low + high) / 2
    limit = np.array(size[::-1], dtype=float)
    side = np.minimum((high - low).max() * (1 + 2 * MARGIN), limit)
    start = np.clip(centre - side / 2, 0, limit - side)
    return np.concatenate([start, start + side])


def _show(axes: Axes, image: NDArray[np.uint8], title: str, frame: Sequence[float]) -> None:
    height, width = image.shape[:2]  # the corner of the first pixel is (0, 0), as in boxes
    axes.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255, extent=(0, width, height, 0))
    axes.set_title(title, fontsize=9.5, loc="left", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    x1, y1, x2, y2 = frame
    axes.set_xlim(x1, x2)
    axes.set_ylim(y2, y1)


def _draw_points(axes: Axes, panel: LayerPanel, strongest: float) -> None:
    order = np.argsort(panel.weights, kind="stable")  # the strongest on top
    share = panel.weights[order] / strongest
    colors = [LEVEL_COLORS[level % len(LEVEL_COLORS)] for level in panel.levels[order]]
    axes.scatter(
        *panel.points[order].T,
        s=SMALLEST_POINT + (LARGEST_POINT - SMALLEST_POINT) * share,
        c=colors,
        alpha=0.35 + 0.65 * share,
        edgecolors=CASING,
        linewidths=0.5,
        zorder=2,
    )


def _draw_box(axes: Axes, box: NDArray, color: str, linestyle: object, width: float = 1.8) -> None:
    x1, y1, x2, y2 = box
    frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=linestyle)
    frame.set_path_effects([withStroke(linewidth=width + 1.4, foreground=CASING), Normal()])
    frame.set_zorder(3)
    axes.add_patch(frame)


def _legend(cells: Sequence[float]) -> list[Line2D]:
    casing = [withStroke(linewidth=4, foreground=CASING), Normal()]
    lines = [
        (REFERENCE, DASHED, "box that the layer starts from"),
        (BOX, "-", "box after the layer"),
        (FINAL, "-", "final box"),
    ]
    handles = [
        Line2D([], [], color=c, linewidth=2, linestyle=style, label=text, path_effects=casing)
        for c, style, text in lines
    ]
    for level, side in enumerate(cells):
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=6,
                markerfacecolor=LEVEL_COLORS[level % len(LEVEL_COLORS)],
                markeredgecolor=CASING,
                label=f"points, cells of {side:.3g} px",
            )
        )
    return handles
