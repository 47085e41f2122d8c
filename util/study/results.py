"""The result of each run of a study: one row per run, in a JSON-lines file that is committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.numbers import number
from util.config import differences
from util.doctor import FAILING, NOTE, diagnose
from util.metrics.report.file import REPORT
from util.runlog.history import History, history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS
from util.study.design import PlannedRun, Suite

RESULT = "result.json"
DONE = "done"
FAILED = "failed"
# of each epoch; columns of the rows of kind "epoch", docs/logs.md
EPOCH_METRICS = (
    *("class_skill", "loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_dn", "class_error", "recall_top10"),
    *("best_score_with_boxes", "best_score_without_boxes", "predicted_per_image", "grad_norm", "clipped_share"),
    *("images_with_boxes", "images", "boxes"),
)


@dataclass(frozen=True)
class RunResult:
    """The result of one run, a row of the file."""

    suite: str
    cell: str
    seed: int
    state: str  # DONE or FAILED
    exit_code: int
    config: str
    settings: Mapping[str, Any]
    phantom: Mapping[str, Any]
    metrics: Mapping[str, float]  # by the short names of the suite; undefined ones are absent
    epochs: Sequence[Mapping[str, float | None]]  # EPOCH_METRICS after each epoch
    verdict: str  # of the doctor
    since: int | None  # epoch, from 0 on, since which it holds
    causes: Sequence[str]  # names of its causes without notes, the most serious first
    seconds: float | None  # wall time; None where the run was interrupted between

    @property
    def is_done(self) -> bool:
        """Whether the run finished, well or badly trained."""
        return self.state == DONE

    @property
    def key(self) -> tuple[str, int]:
        """Cell and seed, which identify a run within its suite."""
        return self.cell, self.seed

    def metric(self, name: str) -> float | None:
        """A metric by its short name in the suite, "failing" (0 or 1) or "skill" (class skill after the last epoch)."""
        if name == "failing":
            return float(self.verdict == FAILING)
        if name == "skill":
            return self.series("class_skill")[-1] if self.epochs else None
        return number(self.metrics.get(name))

    def series(self, name: str) -> list[float | None]:
        """A training metric, epoch by epoch."""
        return [number(epoch.get(name)) for epoch in self.epochs]


def result_of(run: PlannedRun, folder: Path, exit_code: int, seconds: float | None) -> RunResult:
    """The result of a run that has ended.

    Raises:
        UserError: the run is finished and its report cannot be read.
    """
    history = history_of(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else History("no log", ())
    diagnosis = diagnose(history)
    return RunResult(
        suite=run.suite,
        cell=run.cell.name,
        seed=run.seed,
        state=DONE if exit_code == 0 else FAILED,
        exit_code=exit_code,
        config=run.cell.config,
        settings=as_json_values(run.settings),
        phantom=as_json_values(asdict(run.phantom)),
        metrics=read_metrics(folder / REPORT, run.metrics) if exit_code == 0 else {},
        epochs=[{k: rounded(v) for k in EPOCH_METRICS if (v := e.get(k)) is not None} for e in history.epochs],
        verdict=diagnosis.verdict,
        since=diagnosis.epoch,
        causes=[cause.name for cause in diagnosis.causes if cause.level != NOTE],
        seconds=None if seconds is None else round(seconds, 1),
    )


def read_metrics(path: Path, keys: Mapping[str, str]) -> dict[str, float]:
    """The metrics of a report, by short name.

    Args:
        path: report.json.
        keys: short name -> key of the report.

    Raises:
        UserError: it is missing or no JSON object.
    """
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        fix = "remove the folder and start the study again"
        raise UserError(f"{path}: the report of a finished run cannot be read ({error}); {fix}") from error
    if not isinstance(report, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(report).__name__}; remove the folder of this run")
    return {name: rounded(value) for name, key in keys.items() if (value := number(report.get(key))) is not None}


def rounded(value: float) -> float:
    """Round to six digits; no metric here is more precise, and the file stays readable."""
    return float(f"{value:.6g}")


def as_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to the types that JSON gives back, such as lists for tuples."""
    return json.loads(json.dumps(values))


def save_result(row: RunResult, folder: Path) -> None:
    """Write a result into the folder of its run, so that runs that end at the same time do not collide."""
    write_atomically(folder / RESULT, lambda file: file.write((json.dumps(asdict(row)) + "\n").encode()))


def load_result(folder: Path) -> RunResult | None:
    """The result in the folder of a run, if any."""
    path = folder / RESULT
    return parse_result(path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None


def save_results(path: Path, suite: Suite, rows: Iterable[RunResult]) -> None:
    """Write all results of a suite, by seed and in the order of the cells."""
    position = {cell.name: n for n, cell in enumerate(suite.cells)}
    ordered = sorted(rows, key=lambda row: (row.seed, position[row.cell]))
    text = "".join(json.dumps(asdict(row)) + "\n" for row in ordered)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_atomically(path, lambda file: file.write(text.encode()))


def load_results(path: Path, suite: Suite) -> dict[tuple[str, int], RunResult]:
    """The results of a suite by cell and seed; empty where there is no file.

    Raises:
        UserError: a line is no row, is there twice, or is of another suite, cell or recipe than the suite has now.
    """
    rows: dict[tuple[str, int], RunResult] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for n, line in enumerate(lines, start=1):
        row = parse_result(line, where := f"{path}:{n}")
        require_same_settings(suite, row, where)
        if row.key in rows:
            raise UserError(f"{where}: {row.cell}, seed {row.seed}, is there twice; remove one of the two lines")
        rows[row.key] = row
    return rows


def parse_result(text: str, where: str) -> RunResult:
    """Parse a line of the file.

    Raises:
        UserError: the line is not a result of a study.
    """
    fix = "remove the line: --rebuild restores it from the folder of its run, if that is still there"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON, perhaps cut short ({error}); {fix}") from error
    names = {f.name for f in fields(RunResult)}
    if not isinstance(values, dict) or values.keys() != names:
        found = sorted(names ^ values.keys()) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise UserError(f"{where}: no row of a study (missing or unknown: {found}); {fix}")
    kinds = {"suite": str, "cell": str, "seed": int, "settings": dict, "phantom": dict, "metrics": dict, "epochs": list}
    wrong = [name for name, kind in kinds.items() if type(values[name]) is not kind]
    if wrong or not all(isinstance(epoch, dict) for epoch in values["epochs"]):
        raise UserError(f"{where}: no row of a study ({', '.join(wrong) or 'epochs'} of the wrong type); {fix}")
    return RunResult(**values)


def require_same_settings(suite: Suite, row: RunResult, where: str) -> None:
    """Refuse a result whose settings are not those of the suite as it is now.

    Raises:
        UserError: naming the differences.
    """
    cells = {cell.name: cell for cell in suite.cells}
    if row.suite != suite.name or row.cell not in cells:
        raise UserError(f"{where}: suite {row.suite!r}, cell {row.cell!r}: no run of suite {suite.name!r}; remove it")
    run = next(run for run in suite.runs(row.seed + 1) if run.cell.name == row.cell and run.seed == row.seed)
    now = {**as_json_values(run.settings), "phantom": as_json_values(asdict(run.phantom)), "config": run.cell.config}
    then = {**row.settings, "phantom": row.phantom, "config": row.config}
    changes = differences(dict.fromkeys(now) | then, dict.fromkeys(then) | now)
    changed = [f"{change.knob} {change.before!r}, now {change.after!r}" for change in changes]
    if changed:
        fix = "rows of two recipes cannot be compared: move the file and the runs' folders away, or undo the change"
        raise UserError(f"{where}: made with other settings than the suite has ({'; '.join(changed[:3])}); {fix}")
