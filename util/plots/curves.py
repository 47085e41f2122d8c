"""The log of a run as curves over the epochs done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from util.base.errors import UserError
from util.base.numbers import number
from util.metrics.report.file import DESCRIBED_KEYS, load_report
from util.runlog.history import DENOMINATORS, EMPTY
from util.runlog.rows import Row, read_rows
from util.runlog.run_log import ROWS

SMOOTH_SHARE = 0.04  # of the rows: width of the running mean
INTERVAL = "ci95"
# Columns that weight a mean over rows, so that it is the ratio of the sums over these rows.
WEIGHTS = {**DENOMINATORS, "class_skill": "loss_of_constant", "data_share": "seconds"}


@dataclass(frozen=True)
class LoggedCurve:
    """Points of one column: positions x [N], values y [N], and the denominator of each value [N]."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    def smooth(self) -> NDArray[np.float64]:
        """[N]: at each point the weighted mean over the last rows."""
        return running_mean(self.y, self.weight, smoothing_width(len(self.y)))


@dataclass(frozen=True)
class RunCurves:
    """The rows of a run's log, in order, and the report of its last evaluation where there is one."""

    name: str
    rows: tuple[Row, ...]
    report: Mapping[str, Any]  # its metrics
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the report: what was evaluated

    @cached_property
    def train(self) -> list[Row]:
        """The rows of training steps."""
        return [row for row in self.rows if row["kind"] == "train"]

    @cached_property
    def evaluations(self) -> list[Row]:
        """Evaluations of the EMA weights where there are any, else of the model.

        Evaluations by a separate command are left out, unless there are no others.
        """
        rows = [row for row in self.rows if row["kind"] == "eval"]
        rows = [row for row in rows if "checkpoint" not in row] or rows
        return [row for row in rows if row.get("weights") == "ema"] or rows

    @cached_property
    def not_finite(self) -> list[Row]:
        """Steps that were skipped because of a value that is not finite."""
        return [row for row in self.rows if row["kind"] == "nonfinite"]

    @cached_property
    def knows_epochs(self) -> bool:
        """Whether the length of an epoch is known, so that a step inside one has a position."""
        return not self.train or self._usual_length is not None

    def curve(self, kind: str, column: str, *, in_epochs: bool) -> LoggedCurve:
        """The points of a column that are finite numbers; x in epochs done, or in optimizer steps."""
        rows = self._completed if kind == "train" else [(row, row) for row in self.evaluations]
        points = [
            (self.place(row, in_epochs=in_epochs), value, numbers.get(WEIGHTS.get(column, "steps"), 1.0))
            for row, numbers in rows
            if (value := number(numbers.get(column))) is not None
        ]
        points = [point for point in points if point[2] > 0]
        return LoggedCurve(*np.array(points, dtype=float).reshape(-1, 3).T)

    def intervals(self, column: str, *, in_epochs: bool) -> list[tuple[float, float, float, float]]:
        """(x, value, low, high) of evaluations with a 95 % interval, in the row itself or in the report."""
        intervals = []
        for row in self.evaluations:
            ends = row.get(f"{column}/{INTERVAL}")
            if ends is None and row is self._reported:
                ends = self.report.get(f"{column}/{INTERVAL}")
            if ends is not None and (value := number(row.get(column))) is not None:
                low, high = map(float, ends)
                intervals.append((self.place(row, in_epochs=in_epochs), value, low, high))
        return intervals

    def place(self, row: Row, *, in_epochs: bool) -> float:
        """The position of a row on the horizontal axis: epochs done by then, or optimizer steps."""
        epoch = number(row.get("epoch")) or 0.0
        if not in_epochs:
            return row["step"]
        if row["kind"] == "eval":
            return epoch + 1
        length = self._usual_length or 1
        begin = epoch * (self._usual_length or 1)
        if epoch - 1 in self._ends:
            begin = self._ends[epoch - 1]
        if epoch in self._ends:
            begin = min(begin, self._ends[epoch] - 1)
            length = self._ends[epoch] - begin
        return epoch + min(max((row["step"] - begin) / length, 0.0), 1.0)

    @cached_property
    def validation(self) -> Mapping[str, Any]:
        """The facts of the data that the run is evaluated on; empty where they are unknown.

        Those of the report, if its metrics are those of an evaluation in the log; else of the list of the last start.
        """
        if self.facts and self._reported is not None:
            return self.facts
        lists = [row["val"] for row in self.rows if row["kind"] == "start" and isinstance(row.get("val"), dict)]
        return next((facts for facts in reversed(lists) if facts.keys() >= DESCRIBED_KEYS), EMPTY)

    @cached_property
    def last_step(self) -> float:
        """The last optimizer step of the log."""
        return max((row["step"] for row in self.rows), default=0)

    @cached_property
    def _ends(self) -> dict[float, float]:
        """The last optimizer step of each finished epoch."""
        over = [row for row in self.rows if row["kind"] in ("epoch", "eval") and "checkpoint" not in row]
        return {epoch: row["step"] for row in over if (epoch := number(row.get("epoch"))) is not None}

    @cached_property
    def _usual_length(self) -> float | None:
        """Optimizer steps of an epoch: of the last finished one, else from the number of images."""
        if self._ends:
            last = max(self._ends)
            before = self._ends.get(last - 1)
            length = self._ends[last] / (last + 1) if before is None else self._ends[last] - before
            return max(1.0, length)
        starts = [row for row in self.rows if row["kind"] == "start"]
        images, cut = (starts[-1].get(name) for name in ("num_images", "cut")) if starts else (None, None)
        return ceil(images / prod(cut)) if images and cut else None

    @cached_property
    def _completed(self) -> list[tuple[Row, dict[str, float]]]:
        return [(row, _complete(row)) for row in self.train]

    @cached_property
    def _reported(self) -> Row | None:
        """The newest evaluation whose metrics are those of the report."""
        for row in reversed(self.evaluations):
            metrics = {key: value for key, value in row.items() if "/" in key}
            if metrics and all(self.report.get(key) == value for key, value in metrics.items()):
                return row
        return None


def load_run(folder: Path, name: str) -> RunCurves:
    """Load the log and the report of a run folder.

    Raises:
        UserError: it has no log, or no complete row in it yet, or a report that cannot be read.
    """
    report = load_report(folder)
    rows = tuple(read_log(folder / ROWS))
    return RunCurves(name, rows, report.metrics, report.facts) if report else RunCurves(name, rows, EMPTY)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log.jsonl in the order of their steps.

    An incomplete line (the last one of a run that is writing or was killed) is skipped. Where a resumed run wrote a row
    again, the later one counts.

    Raises:
        UserError: the file is absent or has no complete row.
    """
    if not path.is_file():
        raise UserError(f"no log found: {path}; expected the folder of a run, with a {ROWS} in it")
    rows: dict[tuple, dict[str, Any]] = {}
    for row in read_rows(path):
        if number(row.get("step")) is not None:
            rows[row["kind"], row["step"], row.get("weights"), row.get("checkpoint")] = row
    if not rows:
        raise UserError(f"{path}: no complete row yet; try again when the run has logged its first step")
    return sorted(rows.values(), key=lambda row: row["step"])


def running_mean(values: NDArray, weights: NDArray, width: int) -> NDArray[np.float64]:
    """[N], [N] -> [N]: the weighted mean over the last `width` values; NaN where their weights are 0."""
    window = np.ones(width)
    sums, total = (
        np.convolve(row, window)[: len(values)] if len(values) else row for row in (values * weights, weights)
    )
    return np.divide(sums, total, out=np.full(len(values), np.nan), where=total > 0)


def smoothing_width(num_rows: int) -> int:
    """The number of rows in a running mean."""
    return max(1, round(SMOOTH_SHARE * num_rows))


def names_of(folders: Sequence[Path]) -> list[str]:
    """Names of runs: the folder name, with as many parent folders as it takes to make them unique."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _complete(row: Row) -> dict[str, float]:
    """The numbers of a row, and values derived from them."""
    numbers = {key: value for key in row if (value := number(row[key])) is not None}
    steps = numbers.setdefault("steps", 1.0)
    numbers["steps_and_skipped"] = steps + numbers.get("skipped", 0.0)
    numbers["images_without_boxes"] = numbers.get("images", 1.0) - numbers.get("images_with_boxes", 0.0)
    if numbers.get("time"):
        numbers["seconds"] = numbers["steps_and_skipped"] * numbers["time"]
        if "data" in numbers:
            numbers["data_share"] = numbers["data"] / numbers["time"]
    if "loss_ce_of_best_constant" in numbers:
        numbers["loss_of_constant"] = steps * numbers["loss_ce_of_best_constant"]
    return numbers
