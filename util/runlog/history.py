"""A run as the doctor sees it: epoch by epoch, under the column names of log.jsonl, whoever wrote the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from util.base.numbers import number
from util.runlog.rows import Row

SUMMED = ("images", "images_with_boxes", "boxes", "boxes_by_category", "skipped", "steps", "class_error_n")
# the denominator of a ratio, where it is not `steps`
DENOMINATORS = {
    **dict.fromkeys(("loss_with_boxes", "best_score_with_boxes"), "images_with_boxes"),
    **dict.fromkeys(("loss_without_boxes", "best_score_without_boxes"), "images_without_boxes"),
    **dict.fromkeys(("recall_top10", "mean_box_width", "mean_box_height"), "boxes"),
    **dict.fromkeys(("predicted_per_image", "boxes_per_image", "cardinality_error_unscaled"), "images"),
    "class_error": "class_error_n",
    "images_per_second": "seconds",
    **dict.fromkeys(("time", "data"), "steps_and_skipped"),
}
NOT_OF_SEVERAL = ("kind", "epoch", "step", "loss_median", "max_mem_mb")  # or another column says it
EMPTY: Mapping[str, Any] = {}
PARTS = ("config", "train", "val", "trainable", "category_names")  # of a row of kind "start"


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch; what the log does not tell is absent or None."""

    number: int  # from 0 on
    metrics: Mapping[str, Any]  # columns of an "epoch" row, and `lr`, `data_share`, `step` from its "train" rows
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # columns of the "eval" row after it; of the EMA if any
    is_whole: bool = True  # False: still under way, or the run ended in it

    def get(self, name: str) -> float | None:
        """A figure, or None where there is none or it is not finite."""
        return number(self.metrics.get(name))

    def evaluated(self, name: str) -> float | None:
        """A figure of the evaluation, likewise."""
        return number(self.evaluation.get(name))


@dataclass(frozen=True)
class History:
    """A run."""

    source: str  # whose log it is, in words
    epochs: tuple[Epoch, ...]  # in order; epochs that the log lacks are left out
    starts: tuple[Row, ...] = ()  # rows of kind "start": config and data of every start and resume
    not_finite: tuple[Row, ...] = ()  # rows of kind "nonfinite": steps that were not taken
    artefacts: tuple[str, ...] = ()  # figures of the log that say something else than they seem to

    @property
    def config(self) -> Mapping[str, Any]:
        """The recipe of the last start; empty where the log does not tell."""
        return self.start.get("config", EMPTY)

    @property
    def start(self) -> Mapping[str, Any]:
        """The last start: `config`, facts of the `train` and `val` lists, `trainable` parts; empty likewise."""
        return self.starts[-1] if self.starts else EMPTY

    @property
    def last(self) -> Epoch | None:
        """The newest epoch."""
        return self.epochs[-1] if self.epochs else None

    def until(self, epoch: int) -> History:
        """What was known when `epoch` was over."""
        return replace(
            self,
            epochs=tuple(e for e in self.epochs if e.number <= epoch),
            starts=tuple(s for s in self.starts if s["epoch"] <= epoch),
            not_finite=tuple(r for r in self.not_finite if r["epoch"] <= epoch),
        )

    def series(self, name: str) -> list[tuple[int, float]]:
        """(epoch, figure) of the epochs that have it."""
        return [(e.number, value) for e in self.epochs if (value := e.get(name)) is not None]

    def evaluated(self, name: str) -> list[tuple[int, float]]:
        """The same of evaluations."""
        return [(e.number, value) for e in self.epochs if (value := e.evaluated(name)) is not None]


def history_of(rows: Sequence[Row]) -> History:
    """The history that the rows of log.jsonl tell."""
    train = _by_epoch(rows, "train")
    whole = _by_epoch(rows, "epoch")
    judged = _evaluations(rows)
    epochs = []
    for n in sorted(train.keys() | whole.keys()):
        parts = train.get(n, [])
        figures = dict(whole[n][-1]) if n in whole else _combined(parts)
        figures |= _of_the_rows(parts)
        epochs.append(Epoch(n, figures, judged.get(n, EMPTY), is_whole=n in whole))
    return History(
        "log.jsonl of this repository",
        tuple(epochs),
        tuple(_sound(row) for row in rows if row["kind"] == "start"),
        tuple(_sound(row) for row in rows if row["kind"] == "nonfinite"),
    )


def _sound(row: Row) -> Row:
    """A row whose position is a number and whose parts are mappings, whatever was written."""
    parts = {name: row.get(name) if isinstance(row.get(name), Mapping) else EMPTY for name in PARTS}
    position = {name: number(row.get(name)) or 0 for name in ("epoch", "step")}
    return {**row, **position, **parts}


def _by_epoch(rows: Iterable[Row], kind: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["kind"] == kind and type(row.get("epoch")) is int:
            found.setdefault(row["epoch"], []).append(row)
    return found


def _evaluations(rows: Iterable[Row]) -> dict[int, Row]:
    """By the epoch they judge; those by a command of its own are of no epoch."""
    judged: dict[int, Row] = {}
    for row in rows:
        if row["kind"] == "eval" and type(row.get("epoch")) is int and "checkpoint" not in row:
            judged[row["epoch"]] = row
    return judged


def _of_the_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """What only the rows inside an epoch tell."""
    if not rows:
        return {}
    waited = _mean(rows, "data")
    spent = _mean(rows, "time")
    rates = [rate for r in rows if (rate := number(r.get("lr"))) is not None]
    return {
        "step": rows[-1].get("step"),
        "lr": max(rates) if rates else None,
        "data_share": waited / spent if waited is not None and spent else None,
    }


def _combined(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of an epoch that is not over, from its rows: sums of sums, and ratios by their denominators."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_OF_SEVERAL)
    combined = {name: _sum(rows, name) if name in SUMMED else _mean(rows, name) for name in names}
    found = combined.get("loss_ce")
    constant = combined.get("loss_ce_of_best_constant")
    if found is not None and constant:
        combined["class_skill"] = 1 - found / constant
    return combined


def _sum(rows: Sequence[Row], name: str) -> Any:
    """The sum of a column; of one with a sum per category, by category."""
    tables = [row[name] for row in rows if isinstance(row.get(name), Mapping)]
    if tables:
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: sum(number(table.get(key)) or 0 for table in tables) for key in keys}
    return sum(number(row.get(name)) or 0 for row in rows)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """A ratio over all rows; None where no row has it."""
    pairs = [(value, _denominator(row, name)) for row in rows if (value := number(row.get(name))) is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _denominator(row: Row, name: str) -> float:
    """What a row's figure was divided by; 1 where the row does not tell."""
    known = {key: value for key in row if (value := number(row[key])) is not None}
    all_steps = known.get("steps", 1.0) + known.get("skipped", 0.0)
    known["steps_and_skipped"] = all_steps
    known["seconds"] = all_steps * known.get("time", 1.0)
    known["images_without_boxes"] = known.get("images", 1.0) - known.get("images_with_boxes", 0.0)
    return known.get(DENOMINATORS.get(name, "steps"), 1.0)
