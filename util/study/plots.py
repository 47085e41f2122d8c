"""Plots of a suite: class skill over the epochs, and the effect of each level of each factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from util.plots.style import GREY, INK, PALE, format_axes, line_style, set_heading, show_message
from util.study.design import Cell, Suite
from util.study.results import RunResult
from util.study.statistics import difference, estimate, pairs

PANEL_SIZE = (3.6, 2.5)  # inches
LOWEST_SKILL = -1.5  # lower class skill is not drawn
PLOTTED_METRICS = {
    "AP50": "AP50",
    "froc_mean": "FROC mean",
    "auc": "image AUC",
    "alarms_healthy": "FP per healthy image",
}


def draw_skill(suite: Suite, rows: Sequence[RunResult]) -> Figure:
    """Class skill after each epoch: a line per level of the first factor, a panel per combination of the others."""
    subject, *others = suite.references
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in suite.cells:
        groups.setdefault(tuple(cell.levels[name] for name in others), []).append(cell)
    columns = len(suite.levels(others[-1])) if others else 1
    lines = -(-len(groups) // columns)
    figure = Figure(
        figsize=(PANEL_SIZE[0] * max(columns, 1.6), PANEL_SIZE[1] * lines + 0.6), layout="constrained", dpi=110
    )
    figure.suptitle(f"Class skill in training: {suite.title}", fontsize=11, x=0.01, ha="left")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True).flat
    for axes, (levels, cells) in zip(panels, groups.items(), strict=False):
        named = zip(others, levels, strict=True)
        title = ", ".join(level_label(name, level) for name, level in named)
        axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left")
        format_axes(axes, "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axhline(0, color=GREY, linewidth=0.8)
        for n, cell in enumerate(cells):
            _plot_cell(axes, [row for row in rows if row.cell == cell.name], cell.levels[subject], n)
    lowest = min((v for row in rows for v in row.series("class_skill") if v is not None), default=0.0)
    figure.axes[0].set_ylim(max(LOWEST_SKILL, min(-0.1, lowest - 0.1)), 1.05)  # shared by all panels
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("epochs done", fontsize=8.5, color=GREY)
    figure.supylabel("class skill", fontsize=8.5, color=GREY)
    _legend(figure, subject)
    return figure


def level_label(factor: str, level: str) -> str:
    """Label of a level, prefixed with its factor when it is a bare number or "none"."""
    return level if level[0].isalpha() and level != "none" else f"{factor} {level}"


def _plot_cell(axes: Axes, rows: Sequence[RunResult], label: str, n: int) -> None:
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
        show_message(figure.axes[0], "no finished run")


def draw_effects(suite: Suite, rows: Sequence[RunResult]) -> Figure:
    """The difference of every level to its factor's reference, over matched runs, with 95 % intervals."""
    levels = {cell.name: dict(cell.levels) for cell in suite.cells}
    lines = [(f, level) for f in suite.references for level in suite.levels(f) if level != suite.references[f]]
    height = 0.36 * len(lines) + 1.5
    figure = Figure(figsize=(2.9 * len(PLOTTED_METRICS) + 1.2, height), layout="constrained", dpi=110)
    against = ", ".join(level_label(factor, level) for factor, level in suite.references.items())
    figure.suptitle(f"Difference to {against}; matched runs, 95 %", fontsize=11, x=0.01, ha="left")
    places = np.arange(len(lines))[::-1]
    panels = figure.subplots(1, len(PLOTTED_METRICS), squeeze=False, sharey=True)[0]
    for axes, (name, title) in zip(panels, PLOTTED_METRICS.items(), strict=True):
        base = estimate(row.metric(name) for row in rows)
        set_heading(axes, title, f"mean of all runs {base.value:.3f}" if base else "no finished run")
        format_axes(axes, "")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for place, (factor, level) in zip(places, lines, strict=True):
            couples = pairs(rows, levels, factor, suite.references[factor], level)
            _plot_difference(axes, place, couples, name)
        axes.set_yticks(places, [_with_place(suite, factor, level) for factor, level in lines])
        axes.set_ylim(-0.6, len(lines) - 0.4)
    return figure


def _with_place(suite: Suite, factor: str, level: str) -> str:
    """Label of a level, with the only level of another factor at which it was tried, if there is just one."""
    there = [cell.levels for cell in suite.cells if cell.levels[factor] == level]
    places = [{levels[other] for levels in there} for other in suite.references if other != factor]
    only = [f" ({place.pop()})" for place in places if len(place) == 1]
    return level_label(factor, level) + "".join(only)


def _plot_difference(axes: Axes, place: int, couples: Sequence[tuple[RunResult, RunResult]], name: str) -> None:
    found = difference(couples, name)
    if found is None:
        return
    values = [(a.metric(name), b.metric(name)) for a, b in couples]
    gaps = [b - a for a, b in values if a is not None and b is not None]
    axes.plot(gaps, [place] * len(gaps), "|", color=PALE if len(gaps) > 30 else "#b0b0b0", markersize=7, zorder=1)
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [place, place], color=INK, linewidth=1.6, zorder=2)
    axes.plot(found.value, place, "o", color=INK, markersize=5, zorder=3)


PLOTS = {"effects": draw_effects, "skill": draw_skill}  # by their names in Suite.plots
