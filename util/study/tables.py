"""The rows of a suite as Markdown tables; each is a function of the suite and its rows that are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from util.study.design import Contrast, Suite
from util.study.results import Row
from util.study.statistics import Estimate, difference, estimate, pairs, share

# figure -> its column; docs/evaluation.md defines them
COLUMNS = {
    "AP50": "AP50",
    "froc_mean": "FROC mean",
    "auc": "image AUC",
    "alarms_healthy": "false alarms per healthy image",
    "alarms_sick": "... per sick image",
    "threshold": "score threshold",
    "skill": "class skill",
}
CONTRASTED = ("AP50", "froc_mean", "auc", "alarms_healthy", "alarms_sick")


def sections(suite: Suite, rows: Sequence[Row]) -> dict[str, str]:
    """The body of every section of the suite's document."""
    rows = [row for row in rows if row.is_done]
    made = {"setup": setup, "effects": effects, "cells": cells, "verdicts": verdicts, "skill": skill}
    found = {name: made[name](suite, rows) for name in suite.tables}
    found |= {f"{c.factor} within {c.within}": contrasts(suite, rows, c) for c in suite.contrasts}
    return {f"{suite.name} {name}": body for name, body in found.items()}


def setup(suite: Suite, rows: Sequence[Row]) -> str:
    """What was run."""
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


def cells(suite: Suite, rows: Sequence[Row]) -> str:
    """One line per cell: means over its seeds, and the range where there are several."""
    head = [*suite.references, "runs", *COLUMNS.values(), "failing"]
    lines = []
    for cell in suite.cells:
        own = [row for row in rows if row.cell == cell.name]
        figures = [_with_range([row.figure(name) for row in own]) for name in COLUMNS]
        failing = sum(row.figure("failing") or 0 for row in own)
        lines.append([*cell.levels.values(), len(own), *figures, f"{failing:.0f} of {len(own)}"])
    return table(head, lines)


def effects(suite: Suite, rows: Sequence[Row]) -> str:
    """One line per level of each factor: the difference to the factor's reference over matched runs."""
    head = ["factor", "level", "runs", *COLUMNS.values()]
    lines: list[list[object]] = []
    for factor, reference in suite.references.items():
        for level in suite.levels(factor):
            own = _at(suite, rows, factor, level)
            if level == reference:
                figures = [f"{_mean(own, name)} (mean)" for name in COLUMNS]
            else:
                couples = pairs(rows, _levels(suite), factor, reference, level)
                figures = [signed(difference(couples, name)) for name in COLUMNS]
            lines.append([factor, level, len(own), *figures])
    return table(head, lines)


def contrasts(suite: Suite, rows: Sequence[Row], contrast: Contrast) -> str:
    """The differences between the levels of one factor, apart for each level of another, where there are such cells."""
    reference = suite.references[contrast.factor]
    head = [contrast.within, contrast.factor, "pairs", *(COLUMNS[name] for name in CONTRASTED)]
    lines: list[list[object]] = []
    for there in suite.levels(contrast.within):
        own = _at(suite, rows, contrast.within, there)
        base = _at(suite, own, contrast.factor, reference)
        lines.append([there, reference, len(base), *(f"{_mean(base, name)} (mean)" for name in CONTRASTED)])
        met = {c.levels[contrast.factor] for c in suite.cells if c.levels[contrast.within] == there}
        for level in suite.levels(contrast.factor):
            if level != reference and level in met:
                couples = pairs(own, _levels(suite), contrast.factor, reference, level)
                lines.append([there, level, len(couples), *(signed(difference(couples, n)) for n in CONTRASTED)])
    return table(head, lines)


def verdicts(suite: Suite, rows: Sequence[Row]) -> str:
    """What the doctor says at the end, by the levels of each factor."""
    head = ["factor", "level", "runs", "failing", "95 %", "suspicious", "healthy", "cannot tell", "causes (runs)"]
    lines: list[list[object]] = []
    for factor in suite.references:
        for level in suite.levels(factor):
            own = _at(suite, rows, factor, level)
            said = Counter(row.verdict for row in own)
            ends = share(said["failing"], len(own))
            interval = f"{100 * ends.low:.0f} to {100 * ends.high:.0f} %" if ends and ends.low is not None else "-"
            causes = Counter(name for row in own for name in row.causes)
            named = ", ".join(f"`{name}` ({count})" for name, count in causes.most_common()) or "none"
            counts = [said[word] for word in ("suspicious", "healthy", "cannot tell")]
            lines.append([factor, level, len(own), said["failing"], interval, *counts, named])
    return table(head, lines)


def skill(suite: Suite, rows: Sequence[Row]) -> str:
    """Class skill after each epoch, the mean over seeds, of every cell."""
    num_epochs = max((len(row.epochs) for row in rows), default=0)
    head = [*suite.references, *(f"epoch {n + 1}" for n in range(num_epochs))]
    lines = []
    for cell in suite.cells:
        series = [row.series("class_skill") for row in rows if row.cell == cell.name]
        means = [estimate(one[n] for one in series if n < len(one)) for n in range(num_epochs)]
        lines.append([*cell.levels.values(), *(_plain(mean.value, "+.2f") if mean else "-" for mean in means)])
    return table(head, lines)


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Markdown."""
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
    """Without the zero before the point, as in the other tables of docs/."""
    text = format(value, form)
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _with_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle = _plain(sum(known) / len(known))
    return middle if len(known) == 1 else f"{middle} ({_plain(min(known))} to {_plain(max(known))})"


def _mean(rows: Sequence[Row], name: str) -> str:
    found = estimate(row.figure(name) for row in rows)
    return _plain(found.value) if found else "-"


def _levels(suite: Suite) -> dict[str, dict[str, str]]:
    return {cell.name: dict(cell.levels) for cell in suite.cells}


def _at(suite: Suite, rows: Sequence[Row], factor: str, level: str) -> list[Row]:
    levels = _levels(suite)
    return [row for row in rows if levels[row.cell][factor] == level]
