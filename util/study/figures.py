"""Two figures of a suite: how the class skill grew, and what each level of each factor changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from util.plots.style import GREY, INK, PALE, format_axes, line_style, set_heading, show_message
from util.study.design import Suite
from util.study.results import Row
from util.study.statistics import difference, estimate, pairs

PANEL = (3.6, 2.5)  # inches
LOWEST = -1.5  # class skill that is drawn
SHOWN = {"AP50": "AP50", "froc_mean": "FROC mean", "auc": "image AUC", "alarms_healthy": "alarms per healthy image"}


def draw_skill(suite: Suite, rows: Sequence[Row]) -> Figure:
    """Class skill after each epoch: a line per level of the first factor, a panel per combination of the others."""
    subject, *others = suite.references
    groups: dict[tuple[str, ...], list] = {}
    for cell in suite.cells:
        groups.setdefault(tuple(cell.levels[name] for name in others), []).append(cell)
    columns = len(suite.levels(others[-1])) if others else 1
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(PANEL[0] * max(columns, 1.6), PANEL[1] * lines + 0.6), layout="constrained", dpi=110)
    figure.suptitle(f"Class skill in training: {suite.title}", fontsize=11, x=0.01, ha="left")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True).flat
    for axes, (levels, cells) in zip(panels, groups.items(), strict=False):
        named = zip(others, levels, strict=True)
        title = ", ".join(in_full(name, level) for name, level in named)
        axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left")
        format_axes(axes, "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axhline(0, color=GREY, linewidth=0.8)
        for n, cell in enumerate(cells):
            _plot_cell(axes, [row for row in rows if row.cell == cell.name], cell.levels[subject], n)
    lowest = min((v for row in rows for v in row.series("class_skill") if v is not None), default=0.0)
    figure.axes[0].set_ylim(max(LOWEST, min(-0.1, lowest - 0.1)), 1.05)  # shared by all panels
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("epochs done", fontsize=8.5, color=GREY)
    figure.supylabel("class skill", fontsize=8.5, color=GREY)
    _legend(figure, subject)
    return figure


def in_full(factor: str, level: str) -> str:
    """A level for who does not see its factor: a number alone says nothing, "positive_fraction .25" does."""
    return level if level[0].isalpha() and level != "none" else f"{factor} {level}"


def _plot_cell(axes: Axes, rows: Sequence[Row], label: str, n: int) -> None:
    series = [np.array([np.nan if v is None else v for v in row.series("class_skill")]) for row in rows]
    length = min((len(one) for one in series), default=0)
    if not length:
        return
    epochs = np.arange(1, length + 1)
    for one in series if len(series) > 1 else ():
        axes.plot(epochs, one[:length], color=line_style(n)["color"], linewidth=0.5, alpha=0.5)
    axes.plot(
        epochs, np.mean([s[:length] for s in series], axis=0), label=label, linewidth=1.6, markersize=4, **line_style(n)
    )


def _legend(figure: Figure, title: str) -> None:
    found = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        figure.legend(found.values(), found.keys(), title=title, loc="outside lower center", ncols=6, fontsize=8.5)
    else:
        show_message(figure.axes[0], "no run is done")


def draw_effects(suite: Suite, rows: Sequence[Row]) -> Figure:
    """The difference of every level to its factor's reference, over matched runs, with 95 % intervals."""
    levels = {cell.name: dict(cell.levels) for cell in suite.cells}
    lines = [(f, level) for f in suite.references for level in suite.levels(f) if level != suite.references[f]]
    height = 0.36 * len(lines) + 1.5
    figure = Figure(figsize=(2.9 * len(SHOWN) + 1.2, height), layout="constrained", dpi=110)
    against = ", ".join(in_full(factor, level) for factor, level in suite.references.items())
    figure.suptitle(f"Difference to {against}; matched runs, 95 %", fontsize=11, x=0.01, ha="left")
    places = np.arange(len(lines))[::-1]
    panels = figure.subplots(1, len(SHOWN), squeeze=False, sharey=True)[0]
    for axes, (name, title) in zip(panels, SHOWN.items(), strict=True):
        base = estimate(row.figure(name) for row in rows)
        set_heading(axes, title, f"mean of all runs {base.value:.3f}" if base else "no run is done")
        format_axes(axes, "")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for place, (factor, level) in zip(places, lines, strict=True):
            couples = pairs(rows, levels, factor, suite.references[factor], level)
            _plot_difference(axes, place, couples, name)
        axes.set_yticks(places, [_with_place(suite, factor, level) for factor, level in lines])
        axes.set_ylim(-0.6, len(lines) - 0.4)
    return figure


def _with_place(suite: Suite, factor: str, level: str) -> str:
    """A level, and the one level of another factor where it was tried, if that is not all of them."""
    there = [cell.levels for cell in suite.cells if cell.levels[factor] == level]
    places = [{levels[other] for levels in there} for other in suite.references if other != factor]
    only = [f" ({place.pop()})" for place in places if len(place) == 1]
    return in_full(factor, level) + "".join(only)


def _plot_difference(axes: Axes, place: int, couples: Sequence[tuple[Row, Row]], name: str) -> None:
    found = difference(couples, name)
    if found is None:
        return
    values = [(a.figure(name), b.figure(name)) for a, b in couples]
    gaps = [b - a for a, b in values if a is not None and b is not None]
    axes.plot(gaps, [place] * len(gaps), "|", color=PALE if len(gaps) > 30 else "#b0b0b0", markersize=7, zorder=1)
    if found.low is not None:
        axes.plot([found.low, found.high], [place, place], color=INK, linewidth=1.6, zorder=2)
    axes.plot(found.value, place, "o", color=INK, markersize=5, zorder=3)


FIGURES = {"effects": draw_effects, "skill": draw_skill}  # by their names in Suite.figures
