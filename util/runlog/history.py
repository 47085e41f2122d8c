"""The history of a run, epoch by epoch, under the column names of log.jsonl, whichever program wrote the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from util.base.numbers import number
from util.runlog.rows import Row

SUMMED = ("images", "images_with_boxes", "boxes", "boxes_by_category", "skipped", "steps", "class_error_n")
# denominators of ratios, if other than `steps`
DENOMINATORS = {
    **dict.fromkeys(("loss_with_boxes", "best_score_with_boxes"), "images_with_boxes"),
    **dict.fromkeys(("loss_without_boxes", "best_score_without_boxes"), "images_without_boxes"),
    **dict.fromkeys(("recall_top10", "mean_box_width", "mean_box_height"), "boxes"),
    **dict.fromkeys(("predicted_per_image", "boxes_per_image", "cardinality_error_unscaled"), "images"),
    "class_error": "class_error_n",
    "images_per_second": "seconds",
    **dict.fromkeys(("time", "data"), "steps_and_skipped"),
}
NOT_COMBINED = ("kind", "epoch", "step", "loss_median", "max_mem_mb")
EMPTY: Mapping[str, Any] = {}
PARTS = ("config", "train", "val", "trainable", "category_names")  # of a row of kind "start"


@dataclass(frozen=True)
class Epoch:
    """Training metrics and evaluation of one epoch; what the log does not hold is absent or None."""

    number: int  # from 0 on
    metrics: Mapping[str, Any]  # columns of an "epoch" row, and `lr`, `data_share`, `step` from its "train" rows
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # columns of its "eval" row, of the EMA if any
    is_whole: bool = True  # False: still running, or the run ended within it

    def get(self, name: str) -> float | None:
        """Return a training metric, or None if it is absent or not finite."""
        return number(self.metrics.get(name))

    def evaluated(self, name: str) -> float | None:
        """Return a metric of the evaluation, or None if it is absent or not finite."""
        return number(self.evaluation.get(name))


@dataclass(frozen=True)
class History:
    """A run: its epochs, starts and skipped steps."""

    source: str  # description of the log
    epochs: tuple[Epoch, ...]  # in order; epochs missing from the log are left out
    starts: tuple[Row, ...] = ()  # rows of kind "start": config and data of every start and resume
    not_finite: tuple[Row, ...] = ()  # rows of kind "nonfinite": skipped steps
    artefacts: tuple[str, ...] = ()  # metrics of the log that are not what their names suggest
    crashes: tuple[Row, ...] = ()  # rows of kind "crash": what ended the run, as its output says

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the last start; empty if the log does not hold it."""
        return self.start.get("config", EMPTY)

    @property
    def start(self) -> Mapping[str, Any]:
        """The last start: `config`, facts of the `train` and `val` lists, `trainable` parts; empty if there is none."""
        return self.starts[-1] if self.starts else EMPTY

    @property
    def last(self) -> Epoch | None:
        """The newest epoch."""
        return self.epochs[-1] if self.epochs else None

    def until(self, epoch: int) -> History:
        """Return the history as it was at the end of `epoch`."""
        return replace(
            self,
            epochs=tuple(e for e in self.epochs if e.number <= epoch),
            starts=tuple(s for s in self.starts if s["epoch"] <= epoch),
            not_finite=tuple(r for r in self.not_finite if r["epoch"] <= epoch),
            crashes=tuple(r for r in self.crashes if r["epoch"] <= epoch),
        )

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of a training metric for the epochs that have it."""
        return [(e.number, value) for e in self.epochs if (value := e.get(name)) is not None]

    def evaluated(self, name: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of an evaluation metric for the epochs that have it."""
        return [(e.number, value) for e in self.epochs if (value := e.evaluated(name)) is not None]


def history_of(rows: Sequence[Row]) -> History:
    """Build the history from the rows of log.jsonl."""
    train = _by_epoch(rows, "train")
    whole = _by_epoch(rows, "epoch")
    evaluations = _evaluations(rows)
    epochs = []
    for n in sorted(train.keys() | whole.keys()):
        parts = train.get(n, [])
        metrics = dict(whole[n][-1]) if n in whole else _combine(parts)
        metrics |= _from_train_rows(parts)
        epochs.append(Epoch(n, metrics, evaluations.get(n, EMPTY), is_whole=n in whole))
    return History(
        "log.jsonl of this repository",
        tuple(epochs),
        tuple(_sanitised(row) for row in rows if row["kind"] == "start"),
        tuple(_sanitised(row) for row in rows if row["kind"] == "nonfinite"),
    )


def _sanitised(row: Row) -> Row:
    """Replace a position that is not a number by 0 and parts that are not mappings by empty ones."""
    parts = {name: row.get(name) if isinstance(row.get(name), Mapping) else EMPTY for name in PARTS}
    position = {name: number(row.get(name)) or 0 for name in ("epoch", "step")}
    return {**row, **position, **parts}


def _by_epoch(rows: Iterable[Row], kind: str) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        if row["kind"] == kind and type(row.get("epoch")) is int:
            groups.setdefault(row["epoch"], []).append(row)
    return groups


def _evaluations(rows: Iterable[Row]) -> dict[int, Row]:
    """Return the last "eval" row of each epoch; rows of separate evaluation commands name a checkpoint."""
    own = (row for row in rows if "checkpoint" not in row)
    return {epoch: group[-1] for epoch, group in _by_epoch(own, "eval").items()}


def _from_train_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the values that only the rows within an epoch hold."""
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


def _combine(rows: Sequence[Row]) -> dict[str, Any]:
    """Combine the rows of an unfinished epoch: sums are added, ratios averaged with their denominators as weights."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_COMBINED)
    combined = {name: _sum(rows, name) if name in SUMMED else _mean(rows, name) for name in names}
    loss = combined.get("loss_ce")
    constant = combined.get("loss_ce_of_best_constant")
    if loss is not None and constant:
        combined["class_skill"] = 1 - loss / constant
    return combined


def _sum(rows: Sequence[Row], name: str) -> Any:
    """Sum a column; a column with a value per category is summed by category."""
    tables = [row[name] for row in rows if isinstance(row.get(name), Mapping)]
    if tables:
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: sum(number(table.get(key)) or 0 for table in tables) for key in keys}
    return sum(number(row.get(name)) or 0 for row in rows)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """Average a ratio over all rows, weighted by its denominator; None if no row has it."""
    pairs = [(value, _denominator(row, name)) for row in rows if (value := number(row.get(name))) is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _denominator(row: Row, name: str) -> float:
    """Return the denominator of a ratio in a row; 1 if the row does not hold it."""
    known = {key: value for key in row if (value := number(row[key])) is not None}
    all_steps = known.get("steps", 1.0) + known.get("skipped", 0.0)
    known["steps_and_skipped"] = all_steps
    known["seconds"] = all_steps * known.get("time", 1.0)
    known["images_without_boxes"] = known.get("images", 1.0) - known.get("images_with_boxes", 0.0)
    return known.get(DENOMINATORS.get(name, "steps"), 1.0)
