"""One panel of the dashboard: the curves of one or several columns, of one or several runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from util.base.text import label, short_names
from util.plots.curves import Curve, RunCurves, smoothing_width
from util.plots.style import (
    GREY,
    INK,
    WARNING,
    add_note,
    format_axes,
    line_style,
    scale_horizontal,
    scale_vertical,
    set_heading,
    show_message,
)

LONGEST = 14  # characters of names beside a title
MOST_CATEGORIES = 3  # lines of single categories in one panel; a legend of 80 COCO classes helps nobody
CROWD = 600  # dots; more are paler, so that the line stands out
MOST_POINTS = 300  # of a running mean; with more its dashes run together
MOST_MARKERS = 20
BESIDE = 0.008  # of the page: between intervals of the same epoch


@dataclass(frozen=True)
class Panel:
    """What a panel shows."""

    title: str
    lines: Mapping[str, str]  # column: what it is called. The first is drawn bold
    scale: str  # of `util.plots.style.scale_vertical`
    unit: str = ""
    caption: str = ""  # where there is one line alone
    kind: str = "train"  # of the rows
    foot: Panel | None = None  # a strip below, which has no title
    is_exact: bool = False  # a setting, of which a mean would say nothing
    marks_bad_steps: bool = False  # those that were not finite


@dataclass(frozen=True)
class Page:
    """What all panels share."""

    runs: Sequence[RunCurves]
    in_epochs: bool

    @cached_property
    def last(self) -> float:
        """The right end of every panel, in epochs or steps."""
        rows = [(run, row) for run in self.runs for row in (*run.train, *run.evaluations, *run.not_finite)]
        return max((run.place(row, in_epochs=self.in_epochs) for run, row in rows), default=0.0) or 1.0

    @property
    def is_comparison(self) -> bool:
        """Whether a dash means a run; else it means a column."""
        return len(self.runs) > 1

    def line_style(self, run: int, line: int) -> dict[str, Any]:
        """How a line looks: the first of a panel is bold."""
        look = {**line_style(run if self.is_comparison else line), "linewidth": 1.2 if line else 1.8}
        return {**look, "alpha": 0.5} if line and self.is_comparison else look


def draw_panel(axes: Axes, panel: Panel, page: Page) -> None:
    """Curves and intervals; where there are none, the reason."""
    format_axes(axes, panel.unit)
    lines = panel.lines if page.is_comparison else {**panel.lines, **_categories(page.runs[0], panel)}
    curves = [
        {column: run.curve(panel.kind, column, in_epochs=page.in_epochs) for column in lines} for run in page.runs
    ]
    values = [
        _draw_curve(axes, panel, page, curve, page.line_style(n, line))
        for n, mine in enumerate(curves)
        for line, curve in enumerate(mine.values())
        if len(curve.y)
    ]
    values += _draw_intervals(axes, panel, page)
    if panel.title:
        _draw_head(axes, panel, page, lines, curves)
    if not values:
        show_message(axes, _why_empty(panel, page))
    else:
        scale_vertical(axes, panel.scale, np.concatenate(values))
        _draw_marks(axes, panel, page)
    if values or not panel.title:  # the strip has the ticks of the panel above
        scale_horizontal(axes, page.last)


def _draw_curve(axes: Axes, panel: Panel, page: Page, curve: Curve, look: dict[str, Any]) -> NDArray[np.float64]:
    """Evaluations with their markers, training as a running mean; returns the values that must be in sight."""
    if panel.kind == "eval" or len(curve.y) == 1:
        axes.plot(curve.x, curve.y, markersize=4.5, markevery=1 + len(curve.y) // MOST_MARKERS, **look)
        return curve.y
    if panel.is_exact:
        axes.plot(curve.x, curve.y, **{**look, "marker": None})
        return curve.y
    means = curve.smooth()
    if smoothing_width(len(curve.y)) > 1 and panel.title and not page.is_comparison:
        paleness = 0.3 * min(1.0, CROWD / len(curve.y))
        dots = {"linestyle": "none", "marker": ".", "markersize": 2.5, "alpha": max(0.02, paleness)}
        axes.plot(curve.x, curve.y, zorder=1, **{**look, **dots})
    drawn = np.unique(np.linspace(0, len(means) - 1, min(len(means), MOST_POINTS)).round().astype(int))
    axes.plot(curve.x[drawn], means[drawn], **{**look, "marker": None})
    return means[drawn]


def _intervals(panel: Panel, page: Page) -> list[tuple[int, int, tuple[float, float, float, float]]]:
    """(run, line, (x, value, low, high)) of the panel's own figures; those of single categories would hide them."""
    return [
        (n, line, ends)
        for n, run in enumerate(page.runs)
        for line, column in enumerate(panel.lines)
        if panel.kind == "eval"
        for ends in run.intervals(column, in_epochs=page.in_epochs)
    ]


def _draw_intervals(axes: Axes, panel: Panel, page: Page) -> list[NDArray[np.float64]]:
    """95 % intervals as bars with caps, side by side; returns their ends."""
    found = _intervals(panel, page)
    for order, (n, line, (x, _, low, high)) in enumerate(found):
        look = page.line_style(n, line)
        bars = {"ecolor": look["color"], "alpha": look.get("alpha", 1.0), "elinewidth": look["linewidth"], "capsize": 3}
        place = x + BESIDE * page.last * order
        axes.errorbar(place, (low + high) / 2, (high - low) / 2, fmt="none", **bars)
    return [np.array([low, high]) for _, _, (_, _, low, high) in found]


def _draw_head(
    axes: Axes, panel: Panel, page: Page, lines: Mapping[str, str], curves: Sequence[Mapping[str, Curve]]
) -> None:
    """Title, caption or legend, and the runs that have nothing in this panel while others have."""
    drawn = [(n, name) for n, (c, name) in enumerate(lines.items()) if any(len(mine[c].y) for mine in curves)]
    has_legend = len(panel.lines) > 1 and drawn
    set_heading(axes, panel.title, "" if has_legend else panel.caption)
    if has_legend:
        _draw_legend(axes, panel, page, drawn)
    blank = [run.name for run, mine in zip(page.runs, curves, strict=True) if not any(len(c.y) for c in mine.values())]
    if drawn and blank:
        names = ", ".join(map(label, blank))
        add_note(axes, f"nothing of {names if len(names) <= LONGEST else f'{len(blank)} runs'}")


def _draw_legend(axes: Axes, panel: Panel, page: Page, drawn: Sequence[tuple[int, str]]) -> None:
    """What the lines are, above the panel; inside it where they are too many for that."""
    looks = [page.line_style(0, n) for n, _ in drawn]
    if page.is_comparison:
        looks = [{**look, "color": INK, "linestyle": "-"} for look in looks]
    if page.is_comparison or panel.kind == "train":
        looks = [{**look, "marker": None} for look in looks]
    handles = [Line2D([], [], markersize=4, label=name, **look) for (_, name), look in zip(drawn, looks, strict=True)]
    if _intervals(panel, page):
        bar = {"linestyle": "none", "marker": "|", "markersize": 9, "markeredgewidth": 1.6}
        handles.append(Line2D([], [], color=GREY, label="95 %", **bar))
    how = {"handles": handles, "fontsize": 8, "labelcolor": GREY, "handlelength": 2.6, "borderpad": 0.1}
    if len(handles) <= 3:
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1, "frameon": False}
        axes.legend(ncols=len(handles), columnspacing=1.2, handletextpad=0.5, **how, **place)
    else:
        set_heading(axes, panel.title, panel.caption)
        axes.legend(loc="best", edgecolor="none", framealpha=0.7, **how)


def _why_empty(panel: Panel, page: Page) -> str:
    if panel.kind == "eval":
        judged = any(run.evaluations for run in page.runs)
        return "the evaluations have no such figure" if judged else "no evaluation yet"
    rows = list(chain(*(run.train for run in page.runs)))
    if not rows:
        return "no training step yet"
    is_known = any(column in row for row in rows for column in panel.lines)
    return "blank in every row: nothing to divide by" if is_known else "not in this log"


def _categories(run: RunCurves, panel: Panel) -> dict[str, str]:
    """Lines of single categories, where these are few."""
    figure = next(iter(panel.lines)).rsplit("/", 1)[-1]
    pattern = re.compile(rf"all/per_class/(.+)/{re.escape(figure)}")
    found = {key: match.group(1) for row in run.evaluations for key in row if (match := pattern.fullmatch(key))}
    if panel.kind != "eval" or not 1 < len(found) <= MOST_CATEGORIES:
        return {}
    names = short_names(dict(enumerate(found.values())))
    return {key: names[n] for n, key in enumerate(found)}


def _draw_marks(axes: Axes, panel: Panel, page: Page) -> None:
    """The zero line of the class skill, below which looking at the image did harm; steps that were not finite."""
    if panel.scale == "skill":
        axes.axhline(0.0, color=WARNING, linewidth=1.0)
        axes.axhspan(axes.get_ylim()[0], 0.0, color=WARNING, alpha=0.06, linewidth=0)
        place = {"xy": (0.99, 0.0), "xycoords": ("axes fraction", "data"), "xytext": (0, -3)}
        text = {"textcoords": "offset points", "fontsize": 8, "color": WARNING, "ha": "right", "va": "top"}
        axes.annotate("constant predictor", **place, **text)
    for run in page.runs:
        for row in run.not_finite if panel.marks_bad_steps else ():
            x = run.place(row, in_epochs=page.in_epochs)
            axes.axvline(x, color=WARNING, linewidth=1.0, linestyle=":")
            place = {"xy": (x, 0.03), "xycoords": ("data", "axes fraction"), "rotation": 90}
            axes.annotate("not finite", **place, fontsize=7.5, color=WARNING, ha="right", va="bottom")
