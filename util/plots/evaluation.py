"""The plots of an evaluation, each a page of its own. Lines differ in dash and lightness too, for grey prints."""

from __future__ import annotations

from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from util.base.text import short_names
from util.metrics.bootstrap import PERCENTILES, draw_weights
from util.metrics.calibration import reliability
from util.metrics.coco.ap import RECALL_LEVELS, precisions
from util.metrics.confusion import BACKGROUND, confusion
from util.metrics.froc import FPPI_RATES, FrocCurve, froc_curve
from util.metrics.image_level import POSITIVE, ImageScores, roc
from util.metrics.report.protocols import CLASS_AGNOSTIC, PER_CLASS, VIEWS, MatchedTables
from util.metrics.tables import shown_category
from util.plots.style import BLUE, GREY, INK, STYLES

TITLES = {"all": "all images", "tb_only": "images with boxes"}
GRID = np.geomspace(FPPI_RATES[0] / 2, FPPI_RATES[-1] * 2, 120)  # false positives per image
BANDS = (("#a8a8a8", None), ("#7d93b5", "////"))
EVERYTHING = "against all others"
PANEL = 4.6  # inches


def draw_froc(study: MatchedTables, draws: int, seed: int) -> Figure:
    """Plot sensitivity against false positives per image in both views, with 95 % bands if `draws` is not 0."""
    figure, panels = _page("Free-response ROC, IoU at least 0.5", 2)
    curves = {
        "class-agnostic": froc_curve(study.class_agnostic[0], study.deduplicated),
        "per class": froc_curve(study.ground_truth, study.known),
    }
    for axes, view in zip(panels, VIEWS, strict=True):
        images, _ = study.view(view)
        rng = np.random.default_rng(seed)
        drawn = draw_weights(images, draws, rng) if draws and images.any() else None
        _dress(axes, f"{TITLES[view]} ({images.sum()})", "false positives per image", "sensitivity")
        for (name, curve), style, band in zip(curves.items(), STYLES, BANDS, strict=False):
            _plot_froc(axes, curve, images, drawn, name, style, band)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(FPPI_RATES))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_xlim(GRID[0], GRID[-1])
        axes.set_ylim(0, 1.02)
        _legend(axes, "lower right")
    return figure


def _plot_froc(
    axes: Axes, curve: FrocCurve, images: NDArray, drawn: NDArray | None, name: str, style: dict, band: tuple
) -> None:
    def at_grid(weights: NDArray) -> NDArray:
        values = curve.values(weights, GRID.tolist())
        values.pop("froc_mean")
        return np.stack(list(values.values()))

    line = at_grid(images[:, None].astype(float))[:, 0]
    if not np.isfinite(line).all():
        return
    if drawn is not None:
        low, high = np.nanpercentile(at_grid(drawn), PERCENTILES, axis=1)
        colour, hatch = band
        face = {"facecolor": colour, "alpha": 0.55} if hatch is None else {"facecolor": "none", "hatch": hatch}
        axes.fill_between(
            GRID, low, high, edgecolor=colour, linewidth=0.0 if hatch is None else 0.6, **face, label=f"{name}, 95 %"
        )
    marks = np.searchsorted(GRID, FPPI_RATES)
    axes.plot(GRID, line, linewidth=1.8, markersize=4.5, markevery=marks.tolist(), label=name, **style)


def draw_precision_recall(study: MatchedTables) -> Figure:
    """Plot precision against recall as in COCO's AP, on all images, at two IoU thresholds."""
    figure, panels = _page("Precision and recall, all images (the best precision at or beyond each recall)", 2)
    names = short_names(dict(enumerate(map(shown_category, study.matches[PER_CLASS]))))
    lines = [("class-agnostic", next(iter(study.matches[CLASS_AGNOSTIC].values()), None))]
    lines += [(names[n], matches) for n, matches in enumerate(study.matches[PER_CLASS].values())]
    for axes, (row, iou) in zip(panels, ((0, 0.5), (5, 0.75)), strict=True):
        _dress(axes, f"IoU at least {iou:g}", "recall", "precision")
        for (name, matches), style in zip(lines, cycle(STYLES), strict=False):
            if matches is not None:
                levels = precisions(matches)[row]
                label = f"{name}, AP{100 * iou:.0f} {levels.mean():.3f}"
                axes.plot(RECALL_LEVELS, levels, linewidth=1.6, markersize=4, markevery=10, label=label, **style)
        _unit(axes)
        _legend(axes, "upper left", is_below=True)
    return figure


def draw_roc(study: MatchedTables) -> Figure | None:
    """Plot the ROC curve of images; None without both positive and negative images."""
    images = study.image_scores
    if not images.has_both:
        return None
    figure, (axes,) = _page("Image level: ROC of the highest box score", 1)
    _dress(axes, f"{images.is_positive.sum()} positive images", "1 - specificity", "sensitivity")
    groups = np.unique(images.group[images.is_negative]).tolist()
    rest = {f"against {group}": images.is_positive | (images.group == group) for group in groups if len(groups) > 1}
    for (name, rows), style in zip({EVERYTHING: np.ones(len(images.ids), bool), **rest}.items(), STYLES, strict=False):
        part = ImageScores(*(getattr(images, column)[rows] for column in ("ids", "score", "is_positive", "group")))
        x, y, scores = roc(part)
        area = part.values(np.ones((len(part.ids), 1)))["auc"][0]
        line = {**style, "marker": None}
        label = f"{name} ({part.is_negative.sum()}), AUC {area:.3f}"
        axes.plot(x, y, linewidth=1.7, label=label, **line)
        if study.threshold is not None and name == EVERYTHING:
            at = int((scores >= study.threshold).sum()) - 1
            axes.plot(x[at], y[at], "o", color=INK, markersize=8, label=f"operating point, score {study.threshold:.3g}")
    axes.plot([0, 1], [0, 1], color="#a0a0a0", linewidth=0.8, linestyle=":", label="chance")
    _unit(axes)
    _legend(axes, "lower right")
    return figure


def draw_scores(study: MatchedTables) -> Figure:
    """Plot the distribution of the highest score of an image, by kind of image."""
    images = study.image_scores
    figure, (axes,) = _page("Image level: highest box score", 1)
    _dress(axes, "", "highest score of any box in the image", "share of the images of a kind, %")
    finite = images.score[np.isfinite(images.score)]
    edges = np.linspace(min(0.0, finite.min(initial=0.0)), max(1.0, finite.max(initial=1.0)), 26)
    for group, style in zip(_groups(images), STYLES, strict=False):
        score = images.score[images.group == group]
        shown = score[np.isfinite(score)]
        shares = 100 * np.histogram(shown, edges)[0] / len(score)
        none = f", {len(score) - len(shown)} without a box" if len(shown) < len(score) else ""
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        axes.stairs(
            shares,
            edges,
            linewidth=1.9,
            label=f"{'positive' if group == POSITIVE else group.replace('_', ' ')} ({len(score)}{none})",
            **line,
        )
        middles = (edges[1:] + edges[:-1]) / 2
        used = shares > 0
        axes.plot(middles[used], shares[used], style["marker"], color=style["color"], markersize=4)
    if study.threshold is not None:
        axes.axvline(
            study.threshold,
            color=INK,
            linewidth=1.0,
            linestyle=(0, (1, 2)),
            label=f"operating point {study.threshold:.3g}",
        )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    _legend(axes, "upper right")
    return figure


def draw_confusion(study: MatchedTables) -> Figure | None:
    """Plot the confusion matrix at the operating point; None without one."""
    if study.threshold is None:
        return None
    table = confusion(study.ground_truth, study.known, study.threshold)
    names = list(table)
    counts = np.array([[table[true][predicted] for predicted in names] for true in names])
    short = short_names(dict(enumerate(map(shown_category, names))))
    figure, (axes,) = _page(f"Confusion matrix at score threshold {study.threshold:.3g}", 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=2.0)
    for row, true in enumerate(names):
        for column, predicted in enumerate(names):
            if true == predicted == BACKGROUND:
                text = ""
            else:
                share = f"\n{100 * shares[row, column]:.0f} % of the row" if counts[row].sum() else ""
                text = f"{counts[row, column]}{share}"
            axes.text(column, row, text, ha="center", va="center", fontsize=10)
    labels = [short[n] for n in range(len(names))]
    axes.set_xticks(range(len(names)), [*labels[:-1], "missed"], fontsize=9)
    axes.set_yticks(range(len(names)), [*labels[:-1], "false positive"], fontsize=9)
    axes.set_xlabel("detected as", fontsize=10)
    axes.set_ylabel("ground truth", fontsize=10)
    return figure


def draw_calibration(study: MatchedTables) -> Figure | None:
    """Plot the precision of detections by score, and their number; None if scores are no probabilities."""
    table = reliability(study.ground_truth, study.known)
    if table is None:
        return None
    figure = Figure(figsize=(PANEL + 1.2, PANEL + 1.6), dpi=150, layout="constrained")
    figure.suptitle("Reliability of box scores", fontsize=11, fontweight="bold")
    above, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    used = table.count > 0
    _dress(
        above,
        f"expected calibration error {table.error:.3f}, largest gap {table.largest_gap:.3f}",
        "",
        "precision (IoU at least 0.5, right class)",
    )
    above.plot([0, 1], [0, 1], color="#909090", linewidth=0.9, linestyle=":", label="score = precision")
    above.plot(table.score[used], table.share[used], linewidth=1.6, markersize=5, label="detections", **STYLES[0])
    _unit(above)
    _legend(above, "upper left")
    _dress(below, "", "score", "detections")
    below.bar(table.edges[:-1], table.count, width=np.diff(table.edges), align="edge", color="#b9c9de", edgecolor=BLUE)
    below.set_yscale("log")
    below.yaxis.set_major_formatter(FormatStrFormatter("%d"))
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_ylim(bottom=0.7)
    return figure


def _groups(images: ImageScores) -> list[str]:
    """The kinds of images, positive first."""
    return sorted(np.unique(images.group).tolist(), key=lambda group: (group != POSITIVE, group))


def _page(title: str, panels: int) -> tuple[Figure, NDArray]:
    figure = Figure(
        figsize=(panels * (PANEL + 0.6) + (0.6 if panels == 1 else 0), PANEL + 0.5), dpi=150, layout="constrained"
    )
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.03)


def _legend(axes: Axes, place: Literal["lower right", "upper right", "upper left"], *, is_below: bool = False) -> None:
    """Draw the legend in a corner, or below the axes, where it covers no curve."""
    if not axes.get_legend_handles_labels()[1]:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.legend(
        loc=place,
        bbox_to_anchor=(0.0, -0.14) if is_below else None,
        borderaxespad=0.0 if is_below else None,
        fontsize=8.5,
        framealpha=0.9,
        edgecolor="none",
        handlelength=3.2,
    )
