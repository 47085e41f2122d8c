"""The expected results of a recipe on its data set, compared with what a run reached."""

from __future__ import annotations

from dataclasses import dataclass

from util.runlog.history import History


@dataclass(frozen=True)
class ExpectedResults:
    """What a recipe should reach on one data set."""

    dataset_file: str  # knob of the runs that this is about
    min_train_images: int  # with fewer images the run used another training list, and nothing is expected of it
    finite_steps: int  # the first optimizer steps that must all be finite
    ap_by_epoch: tuple[tuple[int, int, float, float], ...]  # (first epoch, last epoch, lowest AP, highest AP), from 1


@dataclass(frozen=True)
class Expectation:
    """One expectation and the value that was measured."""

    what: str
    measured: str
    is_met: bool | None  # None: not reached yet
    is_sure: bool = True  # False: missing it may be chance

    @property
    def text(self) -> str:
        """One line of the report."""
        answer = {True: "yes", False: "no", None: "not yet"}[self.is_met]
        return f"{self.what}: {answer}{f' ({self.measured})' if self.measured else ''}"


def compare_with_expected(history: History, expected: ExpectedResults | None) -> tuple[Expectation, ...]:
    """Every expectation with its measured value; empty where the run used other data."""
    if expected is None or history.config.get("dataset_file") != expected.dataset_file:
        return ()
    if history.start.get("train", {}).get("images", 0) < expected.min_train_images:
        return ()
    bands = (_ap_in_band(history, *band) for band in expected.ap_by_epoch)
    return (_first_steps_finite(history, expected.finite_steps), _class_error_falls(history), *bands)


def _first_steps_finite(history: History, first: int) -> Expectation:
    what = f"the first {first} optimizer steps are finite"
    steps = max((epoch.get("step") or 0 for epoch in history.epochs), default=0)
    bad = sum(row["step"] <= first for row in history.not_finite)
    if bad:
        return Expectation(what, f"{bad} were not", is_met=False)
    return Expectation(what, f"{steps:.0f} steps so far", is_met=True if steps >= first else None)


def _class_error_falls(history: History) -> Expectation:
    what = "class error over matched boxes falls from the first to the second epoch"
    errors = dict(history.series("class_error"))
    whole = {epoch.number for epoch in history.epochs if epoch.is_whole}
    if not {0, 1} <= errors.keys() & whole:
        return Expectation(what, "", is_met=None)
    return Expectation(what, f"{errors[0]:.1f} % and {errors[1]:.1f} %", is_met=errors[1] < errors[0], is_sure=False)


def _ap_in_band(history: History, first: int, last: int, low: float, high: float) -> Expectation:
    when = f"epoch {last}" if first == last else f"epochs {first} to {last}"
    what = f"AP of {low:g} to {high:g} in {when} (counted from 1)"
    evaluations = history.evaluated("all/per_class/AP")
    values = [value for number, value in evaluations if first <= number + 1 <= last]
    if not values:
        return Expectation(what, "", is_met=None)
    is_over = any(number + 1 >= last for number, _ in evaluations)
    best = max(values)
    return Expectation(what, f"{best:.3f}", is_met=best >= low if best >= low or is_over else None)
