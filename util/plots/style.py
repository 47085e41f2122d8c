"""What all plots share: colours, dashes, how panels are dressed, and how names are written."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, Locator, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

from util.base.errors import UserError
from util.base.text import printable

matplotlib.rcParams["text.parse_math"] = False  # files, categories and folders may have dollars in their names

# Told apart without colour too: each line has its own dash, marker and lightness.
INK = "#111111"
BLUE = "#1f5fa8"
ORANGE = "#d9730d"
GREEN = "#3f9e8a"
PURPLE = "#9a5fb5"
GREY = "#666666"
PALE = "#e2e2e2"
WARNING = "#b3202c"
STYLES = (
    {"color": INK, "linestyle": "-", "marker": "o"},
    {"color": BLUE, "linestyle": "--", "marker": "s"},
    {"color": ORANGE, "linestyle": "-.", "marker": "^"},
    {"color": GREEN, "linestyle": ":", "marker": "D"},
    {"color": PURPLE, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
)
WIDEST = 1e4  # from the lowest to the highest value of a logarithmic axis
FEW = (1.0, 2.0, 5.0)  # ticks of a decade


def style(n: int) -> dict[str, Any]:
    """Colour, dash and marker of the n-th line; 25 differ."""
    rounds, place = divmod(n, len(STYLES))
    dashed = STYLES[(place + rounds) % len(STYLES)]
    return {**dashed, "color": STYLES[place]["color"]}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a plot in the format that the ending of its file names.

    Raises:
        UserError: there is no such format.
    """
    try:
        figure.savefig(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def dress(axes: Axes, unit: str) -> None:
    """Grid, ticks and the unit of the vertical axis."""
    axes.set_ylabel(unit, fontsize=8.5, color=GREY)
    axes.tick_params(which="both", labelsize=8, color=GREY)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def head_page(figure: Figure, title: str, width: int) -> None:
    """A bold title over all panels, in lines of at most `width` characters."""
    figure.suptitle(textwrap.fill(printable(title), width, max_lines=5), fontsize=12, fontweight="bold")


def head(axes: Axes, title: str, caption: str) -> None:
    """A bold title over a panel, and below it a small caption."""
    axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left", pad=19)
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(caption, **place, fontsize=8, color=GREY, ha="left", va="bottom")


def aside(axes: Axes, text: str) -> None:
    """A small remark at the right end of the title's line."""
    place = {"xy": (1, 1), "xycoords": "axes fraction", "xytext": (0, 20), "textcoords": "offset points"}
    axes.annotate(text, **place, fontsize=8, color=GREY, ha="right", va="bottom")


def say_empty(axes: Axes, why: str) -> None:
    """A panel without data says why."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9.5)
    axes.set_xticks([])
    axes.set_yticks([])


def scale_vertical(axes: Axes, scale: str, values: np.ndarray) -> None:
    """Choose the vertical axis for the curves with these values [N], N >= 1.

    `log`: logarithmic, spanning the positive values, at most WIDEST of them: a value of 0.0001 would flatten the rest.
    `share`: 0 to 1. `percent`: 0 to 100. `count`: from 0 on, beyond 10 and far apart logarithmic. `amount`: from 0 on.
    `skill`: up to 1, and as far below 0 as need be.
    """
    low = float(values.min())
    high = float(values.max())
    if scale == "log":
        positive = values[values > 0]
        if len(positive):
            bottom = max(positive.min(), positive.max() / WIDEST) / 1.6
            top = positive.max() * 1.6
            axes.set_yscale("log", nonpositive="mask")
            axes.set_ylim(bottom, top)
            _tick_decades(axes, LogLocator(subs=FEW if top / bottom < 1000 else (1.0,), numticks=10))
        else:
            axes.set_ylim(-0.02, 1.0)
    elif scale in ("share", "percent"):
        top = 1.0 if scale == "share" else 100.0
        axes.set_ylim(-0.02 * top, 1.04 * max(top, high))
    elif scale == "skill":
        if low < -2:
            _spread(axes, linear=1.0)
        axes.set_ylim(min(1.25 * low, -0.25), 1.05)
    else:
        is_wide = scale == "count" and high > 10 and high > 8 * float(np.median(values))
        if is_wide:
            _spread(axes, linear=0.6)
        top = (1.3 if is_wide else 1.08) * high or 1.0
        axes.set_ylim(-0.02 * top if not is_wide else -0.05, top)


def _spread(axes: Axes, linear: float) -> None:
    """Linear up to 1 on either side of 0, logarithmic beyond; `linear` decades for the linear part."""
    axes.set_yscale("symlog", linthresh=1.0, linscale=linear)
    _tick_decades(axes, SymmetricalLogLocator(base=10, linthresh=1.0, subs=FEW))


def _tick_decades(axes: Axes, locator: Locator) -> None:
    """Ticks with plain numbers."""
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())


def scale_horizontal(axes: Axes, last: float) -> None:
    """From the start to the last epoch or step, marked at whole numbers."""
    axes.set_xlim(-0.02 * last, 1.03 * last)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
