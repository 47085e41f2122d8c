"""Parse the lines that the official DINO code and its forks write: values of each epoch under the official key names.

`LogParser` takes both forms: log.txt with one JSON object per epoch, and the console with a line every ten steps of
`name: median of the last 20 steps (mean of the epoch so far)`. Only the means are used.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from util.base.numbers import number

PREFIXES = ("train_", "test_", "ema_test_")
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
MEAN = re.compile(rf"(\w+): {NUMBER} \(({NUMBER})\)")
SINGLE = re.compile(rf"\b(lr|time|data): ({NUMBER})")
WITHOUT_BOXES = {"class_error": 100.0, "loss": 0.0}  # values of a step without boxes
LAST_VALUES = re.compile(rf"\b(class_error|loss): ({NUMBER})(?= |$)")
HAS_LOSSES = re.compile(rf"\b\w*loss\w*: {NUMBER} \({NUMBER}\)")
COUNT = r"(\d{1,9})"
EPOCH = rf"Epoch:?\s*\[\s*{COUNT}\b[^\]]{{0,20}}\]\s+"  # [24] or [24/50]
TRAIN = re.compile(rf"{EPOCH}\[\s*{COUNT}/{COUNT}\]")
TEST = re.compile(rf"\bTest:?\s+\[\s*{COUNT}/{COUNT}\]")
WHOLE = re.compile(rf"{EPOCH}Total time")
COCO_LINE = re.compile(
    r"\((AP|AR)\) @\[ ?IoU=([\d.:]+) *\| *area= *(\w+) *\| *maxDets= *(\d+) *\] = (-?\d+(?:\.\d+)?|nan)", re.IGNORECASE
)
STOPPED = re.compile(r"\bLoss is (?:nan|[-+]?inf)\b", re.IGNORECASE)
BARE = re.compile(r"(?<=[\[:,\s])(-?)(nan|inf)(?=\s*[,\]}])")

SETTINGS = (
    *("focal_alpha", "focal_gamma", "num_queries", "dn_number", "num_classes", "batch_size", "world_size", "epochs"),
    *("cls_loss_coef", "bbox_loss_coef", "giou_loss_coef"),
)
SETTING = rf"({'|'.join(SETTINGS)})['\"]?\s*[=:]\s*['\"]?(-?\d[\d.]*(?:[eE][-+]?\d+)?)(?![\w.])"
ANYWHERE = re.compile(rf"(?<![\w.]){SETTING}")
AT_START = re.compile(rf"^\W*{SETTING}")


@dataclass
class RawEpoch:
    """Values of an epoch under the official key names with their prefix (train_loss_ce, test_coco_eval_bbox, ...)."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = True


class LogParser:
    """Collects the epochs and settings of a log line by line."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, dict[str, Any]]] = []  # (epoch from which they hold, settings)
        self.shown: Counter[str] = Counter()  # training lines of the console that show a value
        self.misleading: Counter[str] = Counter()  # those among them that show the value of a step without boxes
        self.stopped: list[int] = []  # epochs in which the loss was not finite
        self.progress = 0  # training lines of the console so far
        self._rows: dict[int, RawEpoch] = {}
        self._console: dict[int, _ConsoleEpoch] = {}
        self._settings: dict[str, Any] = {}
        self._are_final = False  # a Namespace holds the values after config and options
        self._current: _ConsoleEpoch | None = None

    def feed(self, line: str) -> None:
        """Parse one line of either form; other lines are ignored."""
        if line.lstrip().startswith("{") and (row := json_row(line)) is not None:
            self._row(row)
        elif (found := TRAIN.search(line)) and HAS_LOSSES.search(line):
            self._train(int(found[1]), int(found[2]), int(found[3]), line)
        elif found := WHOLE.search(line):
            if self._current and self._current.number == int(found[1]):
                self._current.is_whole = True
        elif found := TEST.search(line):
            self._current_epoch().test(int(found[1]), line)
        elif "Averaged stats:" in line:
            self._current_epoch().averaged(line)
        elif found := COCO_LINE.search(line):
            self._current_epoch().add_coco_line(*found.groups())
        elif STOPPED.search(line):
            self.stopped.append(self.epoch)
        else:
            self._setting(line)

    @property
    def epoch(self) -> int:
        """The epoch that the log has come to."""
        return self._current.number if self._current else max(self._rows, default=0)

    def epochs(self) -> list[RawEpoch]:
        """The epochs in order; where both forms have an epoch, log.txt wins because it has more digits."""
        numbers = sorted(self._rows.keys() | {n for n, printed in self._console.items() if printed.values()})
        return [self._epoch(n) for n in numbers]

    def _epoch(self, number: int) -> RawEpoch:
        row = self._rows.get(number)
        printed = self._console.get(number)
        values = (printed.values() if printed else {}) | (row.values if row else {})
        return RawEpoch(number, values, is_whole=row is not None or (printed is not None and printed.is_whole))

    def misleading_share(self, name: str) -> float:
        """Share of the console lines that show the value of a step without boxes, among those that show a value."""
        return self.misleading[name] / self.shown[name] if self.shown[name] else 0.0

    def finish(self) -> None:
        """Call after the last line: settings that no epoch followed are a start as well."""
        self._start(max(self._rows.keys() | self._console.keys(), default=-1) + 1)

    def _row(self, row: Mapping[str, Any]) -> None:
        values = {k: _plain(v) for k, v in row.items() if k.startswith(PREFIXES)}
        latest = max(self._rows, default=-1)
        if (named := number(_plain(row.get("epoch")))) is not None:
            epoch = int(named)
        elif any(k.startswith("train_") for k in values):
            epoch = latest + 1
        elif latest < 0:  # an evaluation on its own, and nothing else
            epoch = 0
        else:  # an evaluation that belongs to no epoch
            return
        self._forget(self._rows, epoch)
        self._rows[epoch] = RawEpoch(epoch, values)

    def _train(self, epoch: int, step: int, steps: int, line: str) -> None:
        self._start(epoch)
        if self._current is None or self._current.number != epoch or not self._current.has_before(step):
            if self._current is not None and epoch > self._current.number:
                self._current.is_whole = True
            self._forget(self._console, epoch)
            self._current = self._console[epoch] = _ConsoleEpoch(epoch)
        self._current.train(step, steps, line)
        self.progress += 1
        for name, text in dict(LAST_VALUES.findall(line)).items():
            self.shown[name] += 1
            self.misleading[name] += float(text) == WITHOUT_BOXES[name]

    def _current_epoch(self) -> _ConsoleEpoch:
        if self._current is None:  # an evaluation without a training before it
            self._current = self._console[0] = _ConsoleEpoch(0)
        return self._current

    def _forget(self, epochs: dict[int, Any], number: int) -> None:
        """Drop what followed an epoch before a resume repeated it."""
        for later in [n for n in epochs if n > number]:
            del epochs[later]

    def _setting(self, line: str) -> None:
        is_namespace = "Namespace(" in line
        if self._are_final and not is_namespace:
            return
        found = (ANYWHERE if is_namespace or "--options" in line else AT_START).findall(line)
        for name, text in found:
            if (value := _parsed(text)) is not None:
                self._settings[name] = value
        self._are_final = is_namespace and bool(found)

    def _start(self, epoch: int) -> None:
        """Settings printed before an epoch are a start; one or two stray ones later are not."""
        if self._settings and (self._are_final or not self.starts or len(self._settings) >= 3):
            self.starts.append((epoch, self._settings))
        self._settings = {}
        self._are_final = False


class _ConsoleEpoch:
    """The console lines of one epoch."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_whole = False
        self._step = -1
        self._train_line = ""
        self._data_time = 0.0
        self._step_time = 0.0
        self._averaged: dict[str, float] = {}
        self._tests: list[dict[str, Any]] = []
        self._test_step: float = -1
        self._is_testing = False

    def has_before(self, step: int) -> bool:
        return step > self._step and not self._is_testing

    def train(self, step: int, steps: int, line: str) -> None:
        self._step = step
        self._train_line = line
        self.is_whole = step + 1 >= steps
        times = dict(SINGLE.findall(line))
        if "time" in times and "data" in times:
            self._data_time += float(times["data"])
            self._step_time += float(times["time"])

    def test(self, step: int, line: str) -> None:
        if not self._is_testing or step <= self._test_step:
            self._tests.append({})
        self._is_testing = True
        self._test_step = step
        self.is_whole = True
        self._tests[-1]["line"] = line

    def averaged(self, line: str) -> None:
        if self._is_testing:
            self._tests[-1]["line"] = line
            self._test_step = math.inf  # the next line of a test begins another
        else:
            self._averaged = means(line)
            self.is_whole = True

    def add_coco_line(self, kind: str, iou: str, area: str, most: str, value: str) -> None:
        if not self._tests:
            self._tests.append({})
        self._is_testing = True
        self._test_step = math.inf
        index = _coco_index(kind.upper(), iou, area.lower(), most)
        self._tests[-1].setdefault("coco", [math.nan] * 12)
        if index is not None and math.isnan(self._tests[-1]["coco"][index]):  # the first table of each test
            self._tests[-1]["coco"][index] = float(value)

    def values(self) -> dict[str, Any]:
        """All values under the official keys; the first test of an epoch is of the model, the second of the EMA."""
        found = {f"train_{k}": v for k, v in (means(self._train_line) | self._averaged).items()}
        if self._step_time:
            found["train_data_share"] = self._data_time / self._step_time
        for prefix, test in zip(PREFIXES[1:], self._tests, strict=False):
            found |= {f"{prefix}{k}": v for k, v in means(test.get("line", "")).items() if k != "lr"}
            if "coco" in test:
                found[f"{prefix}coco_eval_bbox"] = test["coco"]
        return found


def means(line: str) -> dict[str, float]:
    """Means of the epoch so far, in brackets on a console line, and the learning rate."""
    found = {name: float(text) for name, text in MEAN.findall(line)}
    rates = [float(text) for name, text in SINGLE.findall(line) if name == "lr"]
    return found | ({"lr": rates[0]} if rates and "lr" not in found else {})


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None where the text is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def json_row(line: str) -> dict[str, Any] | None:
    """Parse a line of log.txt; None for a truncated line, another text, or a row of this repository's log.jsonl."""
    row = json_object(line) or json_object(BARE.sub(lambda m: m[1] + {"nan": "NaN", "inf": "Infinity"}[m[2]], line))
    return row if row and "kind" not in row and any(k.startswith(PREFIXES) for k in row) else None


def _coco_index(kind: str, iou: str, area: str, most: str) -> int | None:
    """Index of a line in the 12 values of a COCO summary; None for a line that is not one of them."""
    areas = {"small": 0, "medium": 1, "large": 2}
    if area in areas:
        return areas[area] + (3 if kind == "AP" else 9)
    if kind == "AR":
        return {"1": 6, "10": 7}.get(most, 8)
    return {"0.50:0.95": 0, "0.50": 1, "0.5": 1, "0.75": 2}.get(iou)


def _plain(value: Any) -> Any:
    """Convert NaN written as text to a number, and an integer too large for a float to NaN."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if type(value) is int and abs(value) > 2**63:
        return math.nan
    if isinstance(value, str) and value.strip().lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
        return float(value)
    return value


def _parsed(text: str) -> float | int | None:
    try:
        return int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)
    except ValueError:  # 1.2.3
        return None


def finite_value(values: Mapping[str, Any], name: str) -> float | None:
    """A finite value of an epoch; the unscaled one where the log has both."""
    unscaled = number(values.get(f"{name}_unscaled"))
    return unscaled if unscaled is not None else number(values.get(name))
