"""What a run of the tbx11k recipes on TBX11K is expected to do, and what it did. On other data nothing is expected."""

from __future__ import annotations

from dataclasses import dataclass

from util.runlog.history import History

TBX11K_IMAGES = 6000  # the training list has 6600
STABLE_STEPS = 1000
# first and last epoch (from 1 on, as people count), lowest and highest AP
AP_BY_EPOCH = ((10, 12, 0.05, 0.12), (50, 50, 0.18, 0.25))


@dataclass(frozen=True)
class Expectation:
    """One line of the plan."""

    what: str
    measured: str
    is_met: bool | None  # None: not reached yet
    is_sure: bool = True  # False: missing it may be chance

    @property
    def text(self) -> str:
        """For people."""
        answer = {True: "yes", False: "no", None: "not yet"}[self.is_met]
        return f"{self.what}: {answer}{f' ({self.measured})' if self.measured else ''}"


def expectations(history: History) -> tuple[Expectation, ...]:
    """The plan line by line; empty where it is of no concern."""
    if history.start.get("train", {}).get("images", 0) < TBX11K_IMAGES:
        return ()
    if history.config.get("dataset_file") != "tbx11k":
        return ()
    return (_stable(history), _class_error_falls(history), *(_ap(history, *line) for line in AP_BY_EPOCH))


def _stable(history: History) -> Expectation:
    what = f"the first {STABLE_STEPS} optimizer steps are finite"
    steps = max((epoch.get("step") or 0 for epoch in history.epochs), default=0)
    bad = sum(row["step"] <= STABLE_STEPS for row in history.not_finite)
    if bad:
        return Expectation(what, f"{bad} were not", is_met=False)
    return Expectation(what, f"{steps:.0f} steps so far", is_met=True if steps >= STABLE_STEPS else None)


def _class_error_falls(history: History) -> Expectation:
    what = "class error over matched boxes falls from the first to the second epoch"
    errors = dict(history.series("class_error"))
    whole = {epoch.number for epoch in history.epochs if epoch.is_whole}
    if not {0, 1} <= errors.keys() & whole:
        return Expectation(what, "", is_met=None)
    return Expectation(what, f"{errors[0]:.1f} % and {errors[1]:.1f} %", is_met=errors[1] < errors[0], is_sure=False)


def _ap(history: History, first: int, last: int, low: float, high: float) -> Expectation:
    when = f"epoch {last}" if first == last else f"epochs {first} to {last}"
    what = f"AP of {low:g} to {high:g} in {when} (counted from 1)"
    values = [value for number, value in history.evaluated("all/per_class/AP") if first <= number + 1 <= last]
    if not values:
        return Expectation(what, "", is_met=None)
    is_over = any(number + 1 >= last for number, _ in history.evaluated("all/per_class/AP"))
    best = max(values)
    return Expectation(what, f"{best:.3f}", is_met=best >= low if best >= low or is_over else None)
