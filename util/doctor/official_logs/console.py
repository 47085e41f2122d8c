"""Lines that the official DINO code and its forks print or write: one epoch's figures under the official key names.

Two forms come together in `Reading`: log.txt has one JSON object per epoch, the console a line every ten steps with
`name: median of the last 20 steps (mean of the epoch so far)`. Only means are taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from util.base.numbers import number

PREFIXES = ("train_", "test_", "ema_test_")
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
MEAN = re.compile(rf"(\w+): {NUMBER} \(({NUMBER})\)")
SINGLE = re.compile(rf"\b(lr|time|data): ({NUMBER})")
SHOWN = re.compile(rf"\b(class_error|loss): ({NUMBER})(?= |$)")
IS_FIGURES = re.compile(rf"\b\w*loss\w*: {NUMBER} \({NUMBER}\)")
COUNT = r"(\d{1,9})"
EPOCH = rf"Epoch:?\s*\[\s*{COUNT}\b[^\]]{{0,20}}\]\s+"  # [24] or [24/50]
TRAIN = re.compile(rf"{EPOCH}\[\s*{COUNT}/{COUNT}\]")
TEST = re.compile(rf"\bTest:?\s+\[\s*{COUNT}/{COUNT}\]")
WHOLE = re.compile(rf"{EPOCH}Total time")
JUDGED = re.compile(
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
AT_START = re.compile(rf"\W*{SETTING}")


@dataclass
class RawEpoch:
    """What a log tells of an epoch: official key names with their prefix (train_loss_ce, test_coco_eval_bbox, ...)."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = True


@dataclass
class Shown:
    """What the eye sees of the training lines of a console log."""

    lines: int = 0
    with_class_error: int = 0
    class_error_100: int = 0
    with_loss: int = 0
    loss_0: int = 0


class Reading:
    """Collects a log line by line."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, dict[str, Any]]] = []  # (epoch from which they hold, settings)
        self.shown = Shown()
        self.stopped: list[int] = []  # epochs in which the loss was not finite
        self.dropped: list[int] = []  # epochs that a resume from before them replaced
        self._rows: dict[int, RawEpoch] = {}
        self._console: dict[int, _Printed] = {}
        self._settings: dict[str, Any] = {}
        self._are_final = False  # a Namespace holds what came of config and options
        self._now: _Printed | None = None

    def feed(self, line: str) -> None:
        """One line, of either form or of none."""
        if line.lstrip().startswith("{") and (row := json_row(line)) is not None:
            self._row(row)
        elif (found := TRAIN.search(line)) and IS_FIGURES.search(line):
            self._train(int(found[1]), int(found[2]), int(found[3]), line)
        elif found := WHOLE.search(line):
            if self._now and self._now.number == int(found[1]):
                self._now.is_whole = True
        elif found := TEST.search(line):
            self._printed().test(int(found[1]), line)
        elif "Averaged stats:" in line:
            self._printed().averaged(line)
        elif found := JUDGED.search(line):
            self._printed().judge(*found.groups())
        elif STOPPED.search(line):
            self.stopped.append(self._now.number if self._now else 0)
        else:
            self._setting(line)

    def epochs(self) -> list[RawEpoch]:
        """In order. Where both forms tell of an epoch, log.txt has the more digits."""
        numbers = sorted(self._rows.keys() | {n for n, printed in self._console.items() if printed.values()})
        epochs = []
        for n in numbers:
            printed = self._console.get(n)
            row = self._rows.get(n)
            values = (printed.values() if printed else {}) | (row.values if row else {})
            epochs.append(RawEpoch(n, values, is_whole=row is not None or (printed is not None and printed.is_whole)))
        return epochs

    def finish(self) -> None:
        """Settings that no epoch followed belong to the start as well."""
        self._start(max(self._rows.keys() | self._console.keys(), default=-1) + 1)

    def _row(self, row: Mapping[str, Any]) -> None:
        values = {k: _plain(v) for k, v in row.items() if k.startswith(PREFIXES)}
        latest = max(self._rows, default=-1)
        if (named := number(_plain(row.get("epoch")))) is not None:
            epoch = int(named)
        elif any(k.startswith("train_") for k in values):
            epoch = latest + 1
        elif latest < 0:  # an evaluation by a command of its own, and nothing else
            epoch = 0
        else:  # the same, of no epoch
            return
        self._forget(self._rows, epoch)
        self._rows[epoch] = RawEpoch(epoch, values)

    def _train(self, epoch: int, step: int, steps: int, line: str) -> None:
        self._start(epoch)
        if self._now is None or self._now.number != epoch or not self._now.goes_on(step):
            if self._now is not None and epoch > self._now.number:
                self._now.is_whole = True
            self._forget(self._console, epoch)
            self._now = self._console[epoch] = _Printed(epoch)
        self._now.train(step, steps, line)
        self._look(line)

    def _look(self, line: str) -> None:
        seen = dict(SHOWN.findall(line))
        shown = self.shown
        shown.lines += 1
        if "class_error" in seen:
            shown.with_class_error += 1
            shown.class_error_100 += float(seen["class_error"]) == 100.0
        if "loss" in seen:
            shown.with_loss += 1
            shown.loss_0 += float(seen["loss"]) == 0.0

    def _printed(self) -> _Printed:
        if self._now is None:  # an evaluation without a training before it
            self._now = self._console[0] = _Printed(0)
        return self._now

    def _forget(self, epochs: dict[int, Any], number: int) -> None:
        """What comes again after a resume replaces what was there, and what followed it then."""
        for later in [n for n in epochs if n > number]:
            del epochs[later]
            self.dropped.append(later)

    def _setting(self, line: str) -> None:
        is_namespace = "Namespace(" in line
        if self._are_final and not is_namespace:
            return
        pattern = ANYWHERE if is_namespace or "--options" in line else AT_START
        found = pattern.findall(line) if pattern is ANYWHERE else [m.groups() for m in [pattern.match(line)] if m]
        for name, text in found:
            if (value := _parsed(text)) is not None:
                self._settings[name] = value
        self._are_final = is_namespace and bool(found)

    def _start(self, epoch: int) -> None:
        """Settings printed before an epoch tell of a start; a stray one or two later do not."""
        if self._settings and (self._are_final or not self.starts or len(self._settings) >= 3):
            self.starts.append((epoch, self._settings))
        self._settings = {}
        self._are_final = False


class _Printed:
    """An epoch on the console."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_whole = False
        self._step = -1
        self._train_line = ""
        self._waited = self._spent = 0.0
        self._averaged: dict[str, float] = {}
        self._tests: list[dict[str, Any]] = []
        self._test_step = -1
        self._is_testing = False

    def goes_on(self, step: int) -> bool:
        return step > self._step and not self._is_testing

    def train(self, step: int, steps: int, line: str) -> None:
        self._step = step
        self._train_line = line
        self.is_whole = step + 1 >= steps
        times = dict(SINGLE.findall(line))
        if "time" in times and "data" in times:
            self._waited += float(times["data"])
            self._spent += float(times["time"])

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

    def judge(self, kind: str, iou: str, area: str, most: str, value: str) -> None:
        if not self._tests:
            self._tests.append({})
        self._is_testing = True
        self._test_step = math.inf
        place = _place(kind.upper(), iou, area.lower(), most)
        self._tests[-1].setdefault("judged", [math.nan] * 12)
        if place is not None and math.isnan(self._tests[-1]["judged"][place]):  # the first table of each test
            self._tests[-1]["judged"][place] = float(value)

    def values(self) -> dict[str, Any]:
        """Under the official keys: the first test of an epoch is of the model, the second of the EMA."""
        found = {f"train_{k}": v for k, v in (means(self._train_line) | self._averaged).items()}
        if self._spent:
            found["train_data_share"] = self._waited / self._spent
        for prefix, test in zip(PREFIXES[1:], self._tests, strict=False):
            figures = means(test.get("line", ""))
            figures.pop("lr", None)
            found |= {f"{prefix}{k}": v for k, v in figures.items()}
            if "judged" in test:
                found[f"{prefix}coco_eval_bbox"] = test["judged"]
        return found


def means(line: str) -> dict[str, float]:
    """Means of the epoch so far on a line of the console: the figures in brackets, and the learning rate."""
    found = {name: float(text) for name, text in MEAN.findall(line)}
    rates = [float(text) for name, text in SINGLE.findall(line) if name == "lr"]
    return found | ({"lr": rates[0]} if rates and "lr" not in found else {})


def json_object(text: str) -> dict[str, Any] | None:
    """What a text holds, or None where it is no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def json_row(line: str) -> dict[str, Any] | None:
    """A line of log.txt, or None where it is something else, cut, or a row of this repository's own log.jsonl."""
    row = json_object(line) or json_object(BARE.sub(lambda m: m[1] + {"nan": "NaN", "inf": "Infinity"}[m[2]], line))
    return row if row and "kind" not in row and any(k.startswith(PREFIXES) for k in row) else None


def _place(kind: str, iou: str, area: str, most: str) -> int | None:
    """Which of the 12 COCO figures it is."""
    areas = {"small": 0, "medium": 1, "large": 2}
    if area in areas:
        return areas[area] + (3 if kind == "AP" else 9)
    if kind == "AR":
        return {"1": 6, "10": 7}.get(most, 8)
    return {"0.50:0.95": 0, "0.50": 1, "0.5": 1, "0.75": 2}.get(iou)


def _plain(value: Any) -> Any:
    """NaN written as text is a number all the same, and one that no float holds is none."""
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


def figure(values: Mapping[str, Any], name: str) -> float | None:
    """A finite figure of an epoch, unscaled where there is the choice."""
    unscaled = number(values.get(f"{name}_unscaled"))
    return unscaled if unscaled is not None else number(values.get(name))
