"""The curves of a run: log.jsonl in, one page of six panels out.

Works on a run that is still going: a last line that is half-written is left out, and a panel without data says so.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Row = Mapping[str, Any]

# Told apart without colour too: each line has its own dash, marker and lightness.
INK, BLUE, ORANGE, GREEN, PURPLE = "#111111", "#1f5fa8", "#d9730d", "#3f9e8a", "#9a5fb5"
STYLES = (
    {"color": INK, "linestyle": "-", "marker": "o"},
    {"color": BLUE, "linestyle": "--", "marker": "s"},
    {"color": ORANGE, "linestyle": "-.", "marker": "^"},
    {"color": GREEN, "linestyle": ":", "marker": "D"},
    {"color": PURPLE, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
)
MOST_CATEGORIES = 3  # lines of single categories in one panel; a legend of 80 COCO classes helps nobody
SMOOTH_SHARE = 0.04  # of the rows: width of the running mean


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl in the order of their steps.

    A line that is cut short (the last one of a run that is being written, or of one that was killed) is left out.
    Where a resumed run wrote a row again, the later one stands.

    Raises:
        ValueError: when the file is absent or has no whole row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no log found: {path}; expected the folder of a run, with a log.jsonl in it")
    rows: dict[tuple, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "kind" in row and _is_number(row.get("step")):
            rows[row["kind"], row["step"], row.get("weights")] = row
    if not rows:
        raise ValueError(f"{path}: no whole row yet; try again when the run has logged its first step")
    return sorted(rows.values(), key=lambda row: row["step"])


def draw_run(rows: Sequence[Row], title: str) -> Figure:
    """One page with loss, AP, AP50, learning rate, gradient norm and speed of a run."""
    train = [r for r in rows if r["kind"] == "train"]
    evaluations, weights = _evaluations(rows)
    figure = Figure(figsize=(14, 8), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    panels = figure.subplots(2, 3)
    _draw_loss(panels[0, 0], train)
    _draw_evaluation(panels[0, 1], evaluations, "AP", weights)
    _draw_evaluation(panels[0, 2], evaluations, "AP50", weights)
    _draw_learning_rate(panels[1, 0], train)
    _draw_noisy(panels[1, 1], train, "grad_norm", "Gradient norm before clipping", "L2 norm", log=True)
    _draw_noisy(panels[1, 2], train, "images_per_second", "Training speed", "images / s", log=False)
    return figure


def smooth(values: NDArray, width: int) -> NDArray:
    """[N] -> [N]: the mean over the last `width` values that are finite; NaN where there is none yet."""
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[width:] = sums[width:] - sums[:-width]
    counts[width:] = counts[width:] - counts[:-width]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def column(rows: Sequence[Row], key: str) -> tuple[NDArray, NDArray]:
    """Steps [N] and values [N] of the rows that have a number under `key`."""
    pairs = [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def _draw_loss(axes: Axes, rows: Sequence[Row]) -> None:
    names = {"loss": "loss (total)", "loss_ce": "loss_ce", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}
    _dress(axes, "Training loss, running mean", "optimizer step", "loss")
    shown: list[NDArray] = []
    for (key, label), style in zip(names.items(), STYLES, strict=False):
        steps, values = column(rows, key)
        if not len(steps):
            continue
        if key == "loss":
            axes.plot(steps, values, color="#c4c4c4", linewidth=0.6, zorder=1, label="loss, each log line")
        line = {**style, "marker": style["marker"] if len(steps) == 1 else None}
        means = smooth(values, _width(len(steps)))
        axes.plot(steps, means, linewidth=1.7, label=label, **line)
        shown.append(means)
    _log_scale(axes)
    _fit_to(axes, shown)
    _finish(axes, "no training step yet")


def _draw_evaluation(axes: Axes, rows: Sequence[Row], figure: str, weights: str) -> None:
    _dress(axes, f"{figure} on all validation images{weights}", "epoch", figure)
    lines = {"class-agnostic": f"all/agnostic/{figure}", "mean over classes": f"all/per_class/{figure}"}
    categories = _categories(rows, figure)
    if 1 < len(categories) <= MOST_CATEGORIES:
        lines |= {name: f"all/per_class/{name}/{figure}" for name in categories}
    for (label, key), style in zip(lines.items(), cycle(STYLES), strict=False):
        points = [(row["epoch"], row[key]) for row in rows if _is_number(row.get("epoch")) and _is_number(row.get(key))]
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1.6, markersize=4.5, label=label, **style)
    if axes.lines:
        axes.set_ylim(bottom=0)
    _finish(axes, "no evaluation yet")


def _draw_learning_rate(axes: Axes, rows: Sequence[Row]) -> None:
    _dress(axes, "Learning rate", "optimizer step", "learning rate")
    for (key, label), style in zip({"lr": "lr", "lr_backbone": "lr_backbone"}.items(), STYLES, strict=False):
        steps, values = column(rows, key)
        if len(steps):
            marker = style["marker"] if len(steps) == 1 else None
            axes.plot(steps, values, linewidth=1.7, label=label, **{**style, "marker": marker})
    _log_scale(axes)
    _finish(axes, "no training step yet")


def _draw_noisy(axes: Axes, rows: Sequence[Row], key: str, title: str, unit: str, *, log: bool) -> None:
    _dress(axes, title, "optimizer step", unit)
    steps, values = column(rows, key)
    if len(steps):
        axes.plot(steps, values, ".", color="#a8a8a8", markersize=2.5, label="each log line", zorder=1)
        marker = "o" if len(steps) == 1 else None
        mean = smooth(values, _width(len(steps)))
        axes.plot(steps, mean, color=INK, linewidth=1.7, marker=marker, label="running mean")
        if log:
            _log_scale(axes)
        else:
            axes.set_ylim(bottom=0)
    _finish(axes, "no training step yet")


def _evaluations(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The evaluations of the averaged weights where there are any, else of the model's, and which they are."""
    found = [row for row in rows if row["kind"] == "eval"]
    for weights in ("ema", "model"):
        chosen = [row for row in found if row.get("weights") == weights]
        if chosen:
            return chosen, f" ({weights} weights)"
    return found, ""


def _categories(rows: Sequence[Row], figure: str) -> list[str]:
    pattern = re.compile(rf"all/per_class/(.+)/{figure}")
    found = [match.group(1) for row in rows for match in map(pattern.fullmatch, row) if match]
    return list(dict.fromkeys(found))


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Axes, nothing: str) -> None:
    if axes.lines:
        low, high = axes.get_xlim()
        if high - low < 1.5:  # a single epoch or step
            axes.set_xlim(round((low + high) / 2) - 1, round((low + high) / 2) + 1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
        # below the axis, where it covers no curve
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.17), "ncols": 2, "borderaxespad": 0.0}
        axes.legend(fontsize=8, frameon=False, handlelength=3.2, **place)
        return
    axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center", va="center", color="#666666", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _log_scale(axes: Axes) -> None:
    """Logarithmic where there is anything positive to show."""
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        axes.set_yscale("log", nonpositive="mask")


def _fit_to(axes: Axes, curves: Sequence[NDArray]) -> None:
    """Let the smoothed curves span the panel: one window without a box would stretch it by decades."""
    values = np.concatenate([*curves, np.empty(0)])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values):
        axes.set_ylim(values.min() / 1.6, values.max() * 1.6)


def _width(rows: int) -> int:
    return max(1, round(SMOOTH_SHARE * rows))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
