"""Images with boxes: pages of panels, boxes and legends, bright with a black outline on dark and on bright ground."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray

from util.plots.style import set_page_title

Dashes = Literal["-"] | tuple[float, tuple[float, ...]]
SOLID: Dashes = "-"
DASHED: Dashes = (0, (4, 2))
DOTTED: Dashes = (0, (1, 2))
OUTLINE = "#000000"
PANEL_INCHES = 3.8
TITLE_WIDTH = 58  # characters of a line above a panel


def draw_page(
    title: str, num_panels: int, columns: int, legend: Sequence[Line2D], note: str = ""
) -> tuple[Figure, list[Axes]]:
    """A page of equal panels with a title above and a legend below; panels beyond `num_panels` stay blank."""
    rows = -(-num_panels // columns)
    width = max(columns, 2) * PANEL_INCHES  # the title needs the width of two
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(width, rows * (PANEL_INCHES + 0.3) + 1.0), dpi=110, layout=layout)
    set_page_title(figure, title, round(9 * width))
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels[num_panels:]:
        axes.set_axis_off()
    lines = -(-len(legend) // min(columns, 3)) if len(legend) > 3 else 1
    figure.legend(
        handles=legend,
        loc="outside lower center",
        ncols=-(-len(legend) // lines),
        fontsize=9.5,
        frameon=False,
        handlelength=4,
        title=note or None,
        title_fontsize=8.5,
    )
    return figure, panels[:num_panels]


def show_image(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    """Show an image [H, W] or [H, W, 3]; (0, 0) is the corner of its first pixel, as for boxes."""
    height, width = image.shape[:2]
    axes.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255, extent=(0, width, height, 0))
    lines = [line if len(line) <= TITLE_WIDTH else textwrap.fill(line, TITLE_WIDTH) for line in title.split("\n")]
    axes.set_title("\n".join(lines), fontsize=8.5, loc="left", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_box(axes: Axes, box: NDArray, color: str, dashes: Dashes, width: float = 1.8) -> None:
    """Outline a box [4] xyxy."""
    x1, y1, x2, y2 = box
    frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=dashes)
    frame.set_zorder(3)
    add_outline(frame, width)
    axes.add_patch(frame)


def add_outline(artist: Artist, width: float) -> None:
    """Draw a line of `width` points, or a text with 0, over a wider black one."""
    artist.set_path_effects([withStroke(linewidth=width + 1.6, foreground=OUTLINE), Normal()])


def legend_line(label: str, color: str, dashes: Dashes) -> Line2D:
    """An entry of a legend for boxes."""
    line = Line2D([], [], color=color, linewidth=2.2, linestyle=dashes, label=label)
    add_outline(line, 2.2)
    return line
