"""What became of each run of a study: one row per run, in a JSON-lines file that is committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.files import write_whole
from util.base.numbers import number
from util.config.differences import differences
from util.doctor import FAILING, NOTE, diagnose
from util.metrics.report.evaluation import REPORT
from util.runlog.history import History, history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS
from util.study.design import PlannedRun, Suite

RESULT = "result.json"
DONE = "done"
FAILED = "failed"
# short name -> key of report.json
METRICS = {
    "AP50": "all/agnostic/AP50",
    "AP": "all/per_class/AP",
    "AP50_per_class": "all/per_class/AP50",
    "AP50_tb_only": "tb_only/agnostic/AP50",
    "froc_mean": "all/agnostic/froc_mean",
    "froc@0.125": "all/agnostic/froc@0.125",
    "froc@0.5": "all/agnostic/froc@0.5",
    "froc@1": "all/agnostic/froc@1",
    "froc@4": "all/agnostic/froc@4",
    "auc": "all/image/auc",
    "auc_healthy": "all/image/auc_healthy",
    "auc_sick": "all/image/auc_sick",
    "sensitivity": "all/image/sensitivity",
    "specificity": "all/image/specificity",
    "alarms_healthy": "all/image/false_alarms_healthy",
    "alarms_sick": "all/image/false_alarms_sick",
    "threshold": "operating_point/threshold",
}
# of each epoch; columns of the rows of kind "epoch", docs/logs.md
EPOCH_FIGURES = (
    "class_skill",
    "loss",
    "loss_ce",
    "loss_bbox",
    "loss_giou",
    "loss_ce_dn",
    "class_error",
    "recall_top10",
    "best_score_with_boxes",
    "best_score_without_boxes",
    "predicted_per_image",
    "grad_norm",
    "clipped_share",
    "images_with_boxes",
    "images",
    "boxes",
)


@dataclass(frozen=True)
class Row:
    """One run."""

    suite: str
    cell: str
    seed: int
    state: str  # DONE or FAILED
    exit_code: int
    config: str
    settings: Mapping[str, Any]
    phantom: Mapping[str, Any]
    metrics: Mapping[str, float]  # by the names of METRICS; what is undefined is absent
    epochs: Sequence[Mapping[str, float]]  # EPOCH_FIGURES after each epoch
    verdict: str  # of the doctor
    since: int | None  # epoch, from 0 on, since which it holds
    causes: Sequence[str]  # names of its causes but for notes, the gravest first
    seconds: float | None  # wall time; None where the run was interrupted between

    @property
    def is_done(self) -> bool:
        """Whether it came to its end, well or badly trained."""
        return self.state == DONE

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other rows of its suite."""
        return self.cell, self.seed

    def figure(self, name: str) -> float | None:
        """A figure by its short name; besides METRICS: "failing" (0 or 1) and "skill" (after the last epoch)."""
        if name == "failing":
            return float(self.verdict == FAILING)
        if name == "skill":
            return self.epochs[-1].get("class_skill") if self.epochs else None
        return number(self.metrics.get(name))

    def series(self, name: str) -> list[float | None]:
        """A figure of training, epoch by epoch."""
        return [number(epoch.get(name)) for epoch in self.epochs]


def row_of(run: PlannedRun, folder: Path, exit_code: int, seconds: float | None) -> Row:
    """The row of a run that has ended.

    Raises:
        UserError: it claims to be finished and has no report that can be read.
    """
    history = history_of(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else History("no log", ())
    found = diagnose(history)
    return Row(
        suite=run.suite,
        cell=run.cell.name,
        seed=run.seed,
        state=DONE if exit_code == 0 else FAILED,
        exit_code=exit_code,
        config=run.cell.config,
        settings=plain(run.settings),
        phantom=plain(asdict(run.phantom)),
        metrics=read_metrics(folder / REPORT) if exit_code == 0 else {},
        epochs=[{k: rounded(v) for k in EPOCH_FIGURES if (v := e.get(k)) is not None} for e in history.epochs],
        verdict=found.verdict,
        since=found.epoch,
        causes=[cause.name for cause in found.causes if cause.level != NOTE],
        seconds=None if seconds is None else round(seconds, 1),
    )


def read_metrics(path: Path) -> dict[str, float]:
    """The figures of a report.

    Raises:
        UserError: it is missing or no JSON object.
    """
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        mend = "remove the folder and start the study again"
        raise UserError(f"{path}: the report of a finished run cannot be read ({error}); {mend}") from error
    if not isinstance(report, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(report).__name__}; remove the folder of this run")
    return {name: rounded(value) for name, key in METRICS.items() if (value := number(report.get(key))) is not None}


def rounded(value: float) -> float:
    """Six digits: what is committed shall be read, and no figure here is known better."""
    return float(f"{value:.6g}")


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return json.loads(json.dumps(values))


def save_row(row: Row, folder: Path) -> None:
    """Keep a row in the folder of its run, whole or not at all: runs that end at the same time do not meet."""
    write_whole(folder / RESULT, lambda file: file.write((json.dumps(asdict(row)) + "\n").encode()))


def load_row(folder: Path) -> Row | None:
    """The row that a run has left in its folder, if any."""
    path = folder / RESULT
    return parse_row(path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None


def save_rows(path: Path, suite: Suite, rows: Iterable[Row]) -> None:
    """Write all rows of a suite, by seed and in the order of the cells."""
    place = {cell.name: n for n, cell in enumerate(suite.cells)}
    ordered = sorted(rows, key=lambda row: (row.seed, place[row.cell]))
    text = "".join(json.dumps(asdict(row)) + "\n" for row in ordered)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_whole(path, lambda file: file.write(text.encode()))


def load_rows(path: Path, suite: Suite) -> dict[tuple[str, int], Row]:
    """The rows of a suite by cell and seed; none where there is no file.

    Raises:
        UserError: a line is no row, is there twice, or is of another suite, cell or recipe than the suite has now.
    """
    rows: dict[tuple[str, int], Row] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for n, line in enumerate(lines, start=1):
        row = parse_row(line, where := f"{path}:{n}")
        require_of(suite, row, where)
        if row.key in rows:
            raise UserError(f"{where}: {row.cell}, seed {row.seed}, is there twice; remove one of the two lines")
        rows[row.key] = row
    return rows


def parse_row(text: str, where: str) -> Row:
    """A row from its line.

    Raises:
        UserError: naming the line.
    """
    mend = "remove it: --rebuild takes the row of a run that is still in its folder from there"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON, perhaps cut short ({error}); {mend}") from error
    names = {f.name for f in fields(Row)}
    if not isinstance(values, dict) or values.keys() != names:
        found = sorted(names ^ values.keys()) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise UserError(f"{where}: no row of a study (missing or unknown: {found}); {mend}")
    kinds = {"suite": str, "cell": str, "seed": int, "settings": dict, "phantom": dict, "metrics": dict, "epochs": list}
    wrong = [name for name, kind in kinds.items() if type(values[name]) is not kind]
    if wrong or not all(isinstance(epoch, dict) for epoch in values["epochs"]):
        raise UserError(f"{where}: no row of a study ({', '.join(wrong) or 'epochs'} of the wrong type); {mend}")
    return Row(**values)


def require_of(suite: Suite, row: Row, where: str) -> None:
    """Refuse a row that the suite, as it is now, would not make.

    Raises:
        UserError: saying what differs.
    """
    cells = {cell.name: cell for cell in suite.cells}
    if row.suite != suite.name or row.cell not in cells:
        raise UserError(f"{where}: suite {row.suite!r}, cell {row.cell!r}: no run of suite {suite.name!r}; remove it")
    run = next(run for run in suite.runs(row.seed + 1) if run.cell.name == row.cell and run.seed == row.seed)
    now = {**plain(run.settings), "phantom": plain(asdict(run.phantom)), "config": run.cell.config}
    then = {**row.settings, "phantom": row.phantom, "config": row.config}
    changes = differences(dict.fromkeys(now) | then, dict.fromkeys(then) | now)
    changed = [f"{change.knob} {change.before!r}, now {change.after!r}" for change in changes]
    if changed:
        mend = "rows of two recipes cannot be compared: move the file and the runs' folders away, or undo the change"
        raise UserError(f"{where}: made with other settings than the suite has ({'; '.join(changed[:3])}); {mend}")
