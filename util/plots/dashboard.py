"""The dashboard of a run, or of several that are compared: one page of panels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil

from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from util.base.numbers import number
from util.base.text import label
from util.metrics.report.file import describe_images
from util.plots.curves import SMOOTH_SHARE, RunCurves
from util.plots.panels import Dashboard, Panel, draw_panel
from util.plots.style import GREY, WARNING

BEST = "all/per_class/AP"
COLUMNS = 4
# inches
WIDTH = 17.0
HEAD = 0.72
LINE = 0.215
ABOVE = 0.6
PANEL = 2.4
GAP = 0.85
BELOW = 0.5
WARNING_WIDTH = 200  # characters of a line
READING = f"Lines: running mean over {100 * SMOOTH_SHARE:g} % of the rows, each weighted by its denominator"
PANELS = (
    Panel(
        "Loss, images with boxes",
        {"loss_with_boxes": "per image with boxes", "loss": "per step, all images"},
        "log",
        "weighted sum of all terms",
        marks_bad_steps=True,
    ),
    Panel(
        "Loss, images without boxes",
        {"loss_without_boxes": "per image"},
        "log",
        "weighted sum of all terms",
        "per image; caused by false positives",
    ),
    Panel(
        "AP on the validation images",
        {BEST: "mean over classes", "all/agnostic/AP": "class-agnostic"},
        "amount",
        "AP",
        "IoU .50 to .95; false positives on images without boxes count",
        kind="eval",
    ),
    Panel(
        "AP50 on the validation images",
        {f"{BEST}50": "mean over classes", "all/agnostic/AP50": "class-agnostic"},
        "amount",
        "AP50",
        "IoU .50; false positives on images without boxes count",
        kind="eval",
    ),
    Panel(
        "Class skill",
        {"class_skill": "skill"},
        "skill",
        "1 is perfect",
        "1 - loss_ce / loss_ce of the best constant predictor",
    ),
    Panel(
        "Class error",
        {"class_error": "class error"},
        "percent",
        "% of n boxes",
        "of matched boxes alone; below: n, their number per row",
        foot=Panel("", {"class_error_n": "n"}, "amount", "n"),
    ),
    Panel(
        "Score of the best query",
        {"best_score_with_boxes": "images with boxes", "best_score_without_boxes": "images without"},
        "share",
        "score",
    ),
    Panel(
        "Recall@10",
        {"recall_top10": "recall"},
        "share",
        "share of ground truth boxes",
        "overlapped (IoU .5) by one of the image's 10 best queries",
    ),
    Panel(
        "Boxes per image",
        {"predicted_per_image": "predicted, score from .3 on", "boxes_per_image": "ground truth"},
        "count",
        "boxes",
    ),
    Panel("Learning rate", {"lr": "lr", "lr_backbone": "lr_backbone"}, "log", is_exact=True),
    Panel(
        "Gradient norm",
        {"grad_norm": "norm"},
        "log",
        "L2 norm",
        "before clipping; below: share of steps that were clipped",
        foot=Panel("", {"clipped_share": "clipped"}, "share", "clipped"),
    ),
    Panel(
        "Throughput",
        {"images_per_second": "images/s"},
        "amount",
        "images / s",
        "of all ranks; below: share of the time spent waiting for data",
        foot=Panel("", {"data_share": "waiting"}, "share", "waiting"),
    ),
)


def draw_dashboard(runs: Sequence[RunCurves]) -> Figure:
    """Draw the page of one run, or a comparison of several."""
    page = Dashboard(runs, in_epochs=all(run.knows_epochs for run in runs))
    rows = ceil(len(PANELS) / COLUMNS)
    warning = textwrap.wrap(warn_of_other_data(runs), WARNING_WIDTH)
    top = HEAD + LINE * (len(warning) + len(runs) * page.is_comparison) + ABOVE
    height = top + rows * PANEL + (rows - 1) * GAP + BELOW
    figure = Figure(figsize=(WIDTH, height), dpi=110)
    _draw_header(figure, page, height, warning)
    edges = {"left": 0.04, "right": 0.992, "top": 1 - top / height, "bottom": BELOW / height}
    grid = figure.add_gridspec(rows, COLUMNS, wspace=0.2, hspace=GAP / PANEL, **edges)
    for n, panel in enumerate(PANELS):
        _draw_cell(figure, grid[divmod(n, COLUMNS)], panel, page, is_lowest=n >= len(PANELS) - COLUMNS)
    return figure


def describe_run(run: RunCurves) -> str:
    """Progress and best metric of a run in one line."""
    configs = [row["config"] for row in run.rows if isinstance(row.get("config"), dict)]
    planned = number(configs[-1].get("epochs")) if configs else None
    over = len({row.get("epoch") for row in run.rows if row["kind"] == "epoch"})
    parts = [f"{over}{f' of {planned:.0f}' if planned else ''} epochs done, {run.last_step:.0f} optimizer steps"]
    evaluated = [(value, row) for row in run.evaluations if (value := number(row.get(BEST))) is not None]
    if evaluated:
        value, row = max(evaluated, key=lambda pair: pair[0])
        weights = f", {label(row['weights'])} weights" if "weights" in row else ""
        parts.append(f"best {BEST} {value:.3f} (epochs done: {run.place(row, in_epochs=True):.0f}{weights})")
    parts += [f"steps that were not finite: {len(run.not_finite)}"] if run.not_finite else []
    return "; ".join(parts)


def warn_of_other_data(runs: Sequence[RunCurves]) -> str:
    """A warning if runs were evaluated on different ground truth, so that AP does not rank them; else "".

    Without a fingerprint, in older reports and before the first one, the list and its counts are compared; runs of
    which nothing is known are left out.
    """
    known = [run for run in runs if run.validation]
    has_fingerprints = all("ground_truth" in run.validation for run in known)
    names: dict[str, list[str]] = {}
    for run in known:
        data = describe_images(run.validation)
        names.setdefault(run.validation["ground_truth"] if has_fingerprints else data, []).append(f"{run.name}: {data}")
    if len(names) < 2:
        return ""
    groups = "; ".join(group[0] + f" (as {len(group) - 1} more)" * (len(group) > 1) for group in names.values())
    return f"warning: evaluated on different ground truth, so AP does not rank these runs: {groups}"


def _draw_header(figure: Figure, page: Dashboard, height: float, warning: Sequence[str]) -> None:
    """The names and progress of the runs, and how to read the curves."""
    lines = [describe_run(run) for run in page.runs]
    title = f"{len(lines)} runs compared" if page.is_comparison else label(page.runs[0].name)
    figure.text(0.01, 1 - 0.13 / height, title, fontsize=15, fontweight="bold", va="top")
    reading = f"{READING}." if page.is_comparison else f"{lines[0]}.   {READING}; dots: the rows."
    figure.text(0.01, 1 - 0.48 / height, reading, fontsize=9, color=GREY, va="top")
    if not page.is_comparison:
        return
    text = "\n".join(warning)
    figure.text(0.01, 1 - HEAD / height, text, fontsize=9.5, color=WARNING, linespacing=1.5, va="top")
    legend = figure.legend(
        [Line2D([], [], markersize=5, **page.line_style(n, 0)) for n in range(len(lines))],
        ["run"] * len(lines),
        loc="upper left",
        bbox_to_anchor=(0.01, 1 - (HEAD + LINE * len(warning)) / height),
        borderaxespad=0.0,
        borderpad=0.0,
        fontsize=9.5,
        frameon=False,
        handlelength=4.5,
    )
    for entry, run, line in zip(legend.get_texts(), page.runs, lines, strict=True):
        entry.set_text(f"{label(run.name).lstrip()}:  {line}")


def _draw_cell(figure: Figure, cell: SubplotSpec, panel: Panel, page: Dashboard, *, is_lowest: bool) -> None:
    """Draw a panel, and the strip below it if it has one."""
    if panel.foot is None:
        axes = lowest = figure.add_subplot(cell)
    else:
        parts = cell.subgridspec(2, 1, height_ratios=[3, 1], hspace=0.12)
        axes = figure.add_subplot(parts[0])
        lowest = figure.add_subplot(parts[1])
        axes.tick_params(labelbottom=False)
        draw_panel(lowest, panel.foot, page)
    draw_panel(axes, panel, page)
    if is_lowest:
        lowest.set_xlabel("epochs done" if page.in_epochs else "optimizer steps", fontsize=8.5, color=GREY)
