"""One panel of the page: the curves of one or several columns, of one or several runs."""

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
from util.metrics.tables import shown_category
from util.plots.curves import LoggedCurve, RunCurves, smoothing_width
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

LONGEST = 14  # characters of run names beside a title
MOST_CATEGORIES = 3  # lines of single categories in one panel; a legend of 80 COCO classes is unreadable
CROWD = 600  # dots; more are paler, so that the line stands out
MOST_POINTS = 300  # of a running mean; with more its dashes merge
MOST_MARKERS = 20
BESIDE = 0.008  # of the axis: between intervals of the same epoch


@dataclass(frozen=True)
class Panel:
    """The content of a panel."""

    title: str
    lines: Mapping[str, str]  # column -> label. The first is drawn bold
    scale: str  # of `util.plots.style.scale_vertical`
    unit: str = ""
    caption: str = ""  # if there is only one line
    kind: str = "train"  # of the rows
    foot: Panel | None = None  # a strip below, which has no title
    is_exact: bool = False  # a setting, drawn without a running mean
    marks_bad_steps: bool = False  # steps that were not finite


@dataclass(frozen=True)
class Dashboard:
    """The runs and the horizontal axis, which all panels share."""

    runs: Sequence[RunCurves]
    in_epochs: bool

    @cached_property
    def last(self) -> float:
        """The right end of every panel, in epochs or steps."""
        rows = [(run, row) for run in self.runs for row in (*run.train, *run.evaluations, *run.not_finite)]
        return max((run.place(row, in_epochs=self.in_epochs) for run, row in rows), default=0.0) or 1.0

    @property
    def is_comparison(self) -> bool:
        """Whether colour and dash stand for a run rather than a column."""
        return len(self.runs) > 1

    def line_style(self, run: int, line: int) -> dict[str, Any]:
        """The style of a line: the first of a panel is bold."""
        style = {**line_style(run if self.is_comparison else line), "linewidth": 1.2 if line else 1.8}
        return {**style, "alpha": 0.5} if line and self.is_comparison else style


def draw_panel(axes: Axes, panel: Panel, page: Dashboard) -> None:
    """Draw curves and intervals; if there are none, the reason."""
    format_axes(axes, panel.unit)
    lines = panel.lines if page.is_comparison else {**panel.lines, **_categories(page.runs[0], panel)}
    curves = [
        {column: run.curve(panel.kind, column, in_epochs=page.in_epochs) for column in lines} for run in page.runs
    ]
    values = [
        _draw_curve(axes, panel, page, curve, page.line_style(n, line))
        for n, own in enumerate(curves)
        for line, curve in enumerate(own.values())
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


def _draw_curve(
    axes: Axes, panel: Panel, page: Dashboard, curve: LoggedCurve, style: dict[str, Any]
) -> NDArray[np.float64]:
    """Draw evaluations with markers, training as a running mean; returns the values that must be visible."""
    if panel.kind == "eval" or len(curve.y) == 1:
        axes.plot(curve.x, curve.y, markersize=4.5, markevery=1 + len(curve.y) // MOST_MARKERS, **style)
        return curve.y
    if panel.is_exact:
        axes.plot(curve.x, curve.y, **{**style, "marker": None})
        return curve.y
    means = curve.smooth()
    if smoothing_width(len(curve.y)) > 1 and panel.title and not page.is_comparison:
        paleness = 0.3 * min(1.0, CROWD / len(curve.y))
        dots = {"linestyle": "none", "marker": ".", "markersize": 2.5, "alpha": max(0.02, paleness)}
        axes.plot(curve.x, curve.y, zorder=1, **{**style, **dots})
    drawn = np.unique(np.linspace(0, len(means) - 1, min(len(means), MOST_POINTS)).round().astype(int))
    axes.plot(curve.x[drawn], means[drawn], **{**style, "marker": None})
    return means[drawn]


def _intervals(panel: Panel, page: Dashboard) -> list[tuple[int, int, tuple[float, float, float, float]]]:
    """(run, line, (x, value, low, high)) of the panel's own columns; those of single categories would hide them."""
    return [
        (n, line, ends)
        for n, run in enumerate(page.runs)
        for line, column in enumerate(panel.lines)
        if panel.kind == "eval"
        for ends in run.intervals(column, in_epochs=page.in_epochs)
    ]


def _draw_intervals(axes: Axes, panel: Panel, page: Dashboard) -> list[NDArray[np.float64]]:
    """Draw 95 % intervals as bars with caps, side by side; returns their ends."""
    intervals = _intervals(panel, page)
    for order, (n, line, (x, _, low, high)) in enumerate(intervals):
        style = page.line_style(n, line)
        bars = {
            "ecolor": style["color"],
            "alpha": style.get("alpha", 1.0),
            "elinewidth": style["linewidth"],
            "capsize": 3,
        }
        place = x + BESIDE * page.last * order
        axes.errorbar(place, (low + high) / 2, (high - low) / 2, fmt="none", **bars)
    return [np.array([low, high]) for _, _, (_, _, low, high) in intervals]


def _draw_head(
    axes: Axes,
    panel: Panel,
    page: Dashboard,
    lines: Mapping[str, str],
    curves: Sequence[Mapping[str, LoggedCurve]],
) -> None:
    """Draw title, caption or legend, and name the runs that have no data in this panel while others have."""
    drawn = [(n, name) for n, (c, name) in enumerate(lines.items()) if any(len(own[c].y) for own in curves)]
    has_legend = len(panel.lines) > 1 and drawn
    set_heading(axes, panel.title, "" if has_legend else panel.caption)
    if has_legend:
        _draw_legend(axes, panel, page, drawn)
    blank = [run.name for run, own in zip(page.runs, curves, strict=True) if not any(len(c.y) for c in own.values())]
    if drawn and blank:
        names = ", ".join(map(label, blank))
        add_note(axes, f"no data of {names if len(names) <= LONGEST else f'{len(blank)} runs'}")


def _draw_legend(axes: Axes, panel: Panel, page: Dashboard, drawn: Sequence[tuple[int, str]]) -> None:
    """Draw the legend above the panel; inside it if it has many lines."""
    styles = [page.line_style(0, n) for n, _ in drawn]
    if page.is_comparison:
        styles = [{**style, "color": INK, "linestyle": "-"} for style in styles]
    if page.is_comparison or panel.kind == "train":
        styles = [{**style, "marker": None} for style in styles]
    handles = [
        Line2D([], [], markersize=4, label=name, **style) for (_, name), style in zip(drawn, styles, strict=True)
    ]
    if _intervals(panel, page):
        handles.append(Line2D([], [], color=GREY, label="95 %", ls="none", marker="|", ms=9, mew=1.6))
    is_above = len(handles) <= 3
    if not is_above:
        set_heading(axes, panel.title, panel.caption)
    axes.legend(
        handles=handles,
        loc="lower left" if is_above else "best",
        bbox_to_anchor=(0.0, 1.0) if is_above else None,
        borderaxespad=0.1 if is_above else None,
        frameon=not is_above,
        edgecolor="none",
        framealpha=0.7,
        ncols=len(handles) if is_above else 1,
        columnspacing=1.2,
        handletextpad=0.5,
        fontsize=8,
        labelcolor=GREY,
        handlelength=2.6,
        borderpad=0.1,
    )


def _why_empty(panel: Panel, page: Dashboard) -> str:
    if panel.kind == "eval":
        is_evaluated = any(run.evaluations for run in page.runs)
        return "the evaluations have no such metric" if is_evaluated else "no evaluation yet"
    rows = list(chain(*(run.train for run in page.runs)))
    if not rows:
        return "no training step yet"
    is_known = any(column in row for row in rows for column in panel.lines)
    return "blank in every row: nothing to divide by" if is_known else "not in this log"


def _categories(run: RunCurves, panel: Panel) -> dict[str, str]:
    """Columns and labels of single categories, if these are few."""
    metric = next(iter(panel.lines)).rsplit("/", 1)[-1]
    pattern = re.compile(rf"(?s)all/per_class/(.+)/{re.escape(metric)}")
    categories = {key: match.group(1) for row in run.evaluations for key in row if (match := pattern.fullmatch(key))}
    if panel.kind != "eval" or not 1 < len(categories) <= MOST_CATEGORIES:
        return {}
    names = short_names(dict(enumerate(map(shown_category, categories.values()))))
    return {key: names[n] for n, key in enumerate(categories)}


def _draw_marks(axes: Axes, panel: Panel, page: Dashboard) -> None:
    """Mark the class skill of a constant predictor, and steps that were not finite."""
    if panel.scale == "skill":
        axes.axhline(0.0, color=WARNING, linewidth=1.0)
        axes.axhspan(axes.get_ylim()[0], 0.0, color=WARNING, alpha=0.06, linewidth=0)
        place = axes.get_yaxis_transform()
        axes.text(0.99, -0.03, "constant predictor", transform=place, fontsize=8, color=WARNING, ha="right", va="top")
    for run in page.runs:
        for row in run.not_finite if panel.marks_bad_steps else ():
            x = run.place(row, in_epochs=page.in_epochs)
            axes.axvline(x, color=WARNING, linewidth=1.0, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(
                x,
                0.03,
                "not finite",
                transform=place,
                rotation=90,
                fontsize=7.5,
                color=WARNING,
                ha="right",
                va="bottom",
            )
