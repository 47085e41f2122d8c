"""Markdown tables of a suite; each is a function of the suite and the results of its finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from util.doctor import CANNOT_TELL, FAILING, HEALTHY, SUSPICIOUS
from util.study.design import Contrast, Suite
from util.study.results import RunResult
from util.study.statistics import Estimate, difference, estimate, pairs, share

# metric -> column heading; docs/evaluation.md defines them
TABLE_METRICS = {
    "AP50": "AP50",
    "froc_mean": "FROC mean",
    "auc": "image AUC",
    "alarms_healthy": "false positives per healthy image",
    "alarms_sick": "... per sick image",
    "threshold": "score threshold",
    "skill": "class skill",
}
OTHER_VERDICTS = (SUSPICIOUS, HEALTHY, CANNOT_TELL)
CONTRASTED = ("AP50", "froc_mean", "auc", "alarms_healthy", "alarms_sick")


def sections(suite: Suite, rows: Sequence[RunResult]) -> dict[str, str]:
    """The body of every section of the suite's document."""
    rows = [row for row in rows if row.is_done]
    made = {"setup": setup, "effects": effects, "cells": cells, "verdicts": verdicts, "skill": skill}
    found = {name: made[name](suite, rows) for name in suite.tables}
    found |= {f"{c.factor} within {c.within}": contrasts(suite, rows, c) for c in suite.contrasts}
    return {f"{suite.name} {name}": body for name, body in found.items()}


def setup(suite: Suite, rows: Sequence[RunResult]) -> str:
    """Number of runs, data and options."""
    seeds = sorted({row.seed for row in rows})
    whole = [seed for seed in seeds if sum(row.seed == seed for row in rows) == len(suite.cells)]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    took = f"; {median(seconds) / 60:.1f} minutes each (median), on one thread" if seconds else ""
    phantom = suite.phantom
    return (
        f"{len(rows)} runs: {len(suite.cells)} cells, {len(whole)} whole seeds of {suite.seeds} planned{took}. "
        f"Data: {phantom.train} training and {phantom.val} held-out images, {phantom.size} px, "
        f"`make_phantom.py {' '.join(phantom.arguments)}`. Options of all runs: "
        + ", ".join(f"`{key}={value}`" for key, value in suite.options.items())
        + "."
    )


def cells(suite: Suite, rows: Sequence[RunResult]) -> str:
    """One line per cell: means over its seeds, and the range where there are several."""
    head = [*suite.references, "runs", *TABLE_METRICS.values(), "failing"]
    lines = []
    for cell in suite.cells:
        own = [row for row in rows if row.cell == cell.name]
        values = [_with_range([row.metric(name) for row in own]) for name in TABLE_METRICS]
        failing = sum(row.metric("failing") or 0 for row in own)
        lines.append([*cell.levels.values(), len(own), *values, f"{failing:.0f} of {len(own)}"])
    return markdown_table(head, lines)


def effects(suite: Suite, rows: Sequence[RunResult]) -> str:
    """One line per level of each factor: the difference to the factor's reference over matched runs."""
    head = ["factor", "level", "runs", *TABLE_METRICS.values()]
    lines: list[list[object]] = []
    for factor, reference in suite.references.items():
        for level in suite.levels(factor):
            own = _at(suite, rows, factor, level)
            if level == reference:
                values = [f"{_mean(own, name)} (mean)" for name in TABLE_METRICS]
            else:
                couples = pairs(rows, _levels(suite), factor, reference, level)
                values = [signed(difference(couples, name)) for name in TABLE_METRICS]
            lines.append([factor, level, len(own), *values])
    return markdown_table(head, lines)


def contrasts(suite: Suite, rows: Sequence[RunResult], contrast: Contrast) -> str:
    """The differences between the levels of one factor, apart for each level of another, where there are such cells."""
    reference = suite.references[contrast.factor]
    head = [contrast.within, contrast.factor, "pairs", *(TABLE_METRICS[name] for name in CONTRASTED)]
    lines: list[list[object]] = []
    for outer in suite.levels(contrast.within):
        own = _at(suite, rows, contrast.within, outer)
        base = _at(suite, own, contrast.factor, reference)
        lines.append([outer, reference, len(base), *(f"{_mean(base, name)} (mean)" for name in CONTRASTED)])
        tried = {c.levels[contrast.factor] for c in suite.cells if c.levels[contrast.within] == outer}
        for level in suite.levels(contrast.factor):
            if level != reference and level in tried:
                couples = pairs(own, _levels(suite), contrast.factor, reference, level)
                lines.append([outer, level, len(couples), *(signed(difference(couples, n)) for n in CONTRASTED)])
    return markdown_table(head, lines)


def verdicts(suite: Suite, rows: Sequence[RunResult]) -> str:
    """The doctor's verdicts at the end, by the levels of each factor."""
    head = ["factor", "level", "runs", FAILING, "95 %", *OTHER_VERDICTS, "causes (runs)"]
    lines: list[list[object]] = []
    for factor in suite.references:
        for level in suite.levels(factor):
            own = _at(suite, rows, factor, level)
            verdict_counts = Counter(row.verdict for row in own)
            num_failing = verdict_counts[FAILING]
            ends = share(num_failing, len(own))
            interval = (
                f"{100 * ends.low:.0f} to {100 * ends.high:.0f} %"
                if ends and ends.low is not None and ends.high is not None
                else "-"
            )
            causes = Counter(name for row in own for name in row.causes)
            named = ", ".join(f"`{name}` ({count})" for name, count in causes.most_common()) or "none"
            counts = [verdict_counts[verdict] for verdict in OTHER_VERDICTS]
            lines.append([factor, level, len(own), num_failing, interval, *counts, named])
    return markdown_table(head, lines)


def skill(suite: Suite, rows: Sequence[RunResult]) -> str:
    """Class skill after each epoch, the mean over seeds, of every cell."""
    num_epochs = max((len(row.epochs) for row in rows), default=0)
    head = [*suite.references, *(f"epoch {n + 1}" for n in range(num_epochs))]
    lines = []
    for cell in suite.cells:
        series = [row.series("class_skill") for row in rows if row.cell == cell.name]
        means = [estimate(one[n] for one in series if n < len(one)) for n in range(num_epochs)]
        lines.append([*cell.levels.values(), *(_plain(mean.value, "+.2f") if mean else "-" for mean in means)])
    return markdown_table(head, lines)


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def signed(found: Estimate | None) -> str:
    """A difference with its interval; bold where the interval excludes zero."""
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return _plain(found.value, "+.3f")
    text = f"{_plain(found.value, '+.3f')} [{_plain(found.low, '+.3f')}, {_plain(found.high, '+.3f')}]"
    return f"**{text}**" if found.is_clear else text


def _plain(value: float, form: str = ".3f") -> str:
    """Format without the zero before the point, as in the other tables of docs/."""
    text = format(value, form)
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _with_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle = _plain(sum(known) / len(known))
    return middle if len(known) == 1 else f"{middle} ({_plain(min(known))} to {_plain(max(known))})"


def _mean(rows: Sequence[RunResult], name: str) -> str:
    found = estimate(row.metric(name) for row in rows)
    return _plain(found.value) if found else "-"


def _levels(suite: Suite) -> dict[str, dict[str, str]]:
    return {cell.name: dict(cell.levels) for cell in suite.cells}


def _at(suite: Suite, rows: Sequence[RunResult], factor: str, level: str) -> list[RunResult]:
    levels = _levels(suite)
    return [row for row in rows if levels[row.cell][factor] == level]
