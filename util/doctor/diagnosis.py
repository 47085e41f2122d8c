"""The doctor's answer about a run: a verdict, the likely causes in order, and the metrics that show it.

All functions are pure functions of a `History`. A verdict on epoch N uses only what was known when epoch N was over, so
that training and a later check give the same answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from util.doctor.expectations import Expectation, ExpectedResults, compare_with_expected
from util.doctor.symptoms.cause import FAILING, NOTE, SUSPICIOUS, Cause, last_after, separation
from util.doctor.symptoms.checks import CHECKS
from util.runlog.history import History

HEALTHY = "healthy"
CANNOT_TELL = "cannot tell"
LEVELS = (NOTE, SUSPICIOUS, FAILING)
TRAINING_METRICS = (
    *("loss", "loss_with_boxes", "loss_without_boxes", "class_skill", "class_skill_if_alpha_25"),
    *("class_skill_if_alpha_75", "class_error", "class_error_n", "recall_top10", "best_score_with_boxes"),
    *("best_score_without_boxes", "predicted_per_image", "boxes_per_image", "grad_norm", "clipped_share", "lr"),
)
EVALUATION_METRICS = ("all/per_class/AP", "all/agnostic/AP50", "all/per_class/AP50", "all/image/auc")


@dataclass(frozen=True)
class Diagnosis:
    """Verdict, causes and evidence."""

    verdict: str  # HEALTHY, SUSPICIOUS, FAILING or CANNOT_TELL
    epoch: int | None  # since which the verdict holds
    causes: tuple[Cause, ...]  # most likely first; with notes, which do not count for the verdict
    evidence: dict[str, Any]  # metrics of the newest epoch
    artefacts: tuple[str, ...]  # metrics of the log that are misleading, and why
    expectations: tuple[str, ...] = ()  # expected results and the measured ones

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as plain values. The keys are the interface of `check_run.py --json` and do not change."""
        causes = [{"name": c.name, "level": c.level, "evidence": c.evidence, "mend": c.fix} for c in self.causes]
        return asdict(self) | {"causes": causes}

    def as_text(self) -> str:
        """The diagnosis as lines of text."""
        since = "" if self.epoch is None else f" (since epoch {self.epoch})"
        lines = [f"verdict: {self.verdict}{since}"]
        for cause in self.causes:
            lines += [f"- {cause.name} [{cause.level}]: {cause.evidence}", f"  fix: {cause.fix}"]
        known = {name: value for name, value in self.evidence.items() if value is not None}
        shown = [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in known.items()]
        lines += [f"metrics: {', '.join(shown)}"] if shown else []
        lines += [f"expected: {text}" for text in self.expectations]
        return "\n".join([*lines, *(f"artefact: {text}" for text in self.artefacts)])


def diagnose(history: History, expected: ExpectedResults | None = None) -> Diagnosis:
    """Diagnose a whole run.

    The `epoch` of the diagnosis is the first one since which the verdict has held. A failing run that seemed only
    suspicious for an epoch in between has been failing all along.
    """
    causes = find_causes(history, expected)
    verdict = verdict_of(history, causes)
    since: int | None = None
    past: dict[str, str] = {}
    still_holds = True
    for epoch in reversed(history.epochs):
        known = history.until(epoch.number)
        earlier_causes = find_causes(known, expected)
        past |= {c.name: f"in epoch {epoch.number}: {c.evidence}" for c in earlier_causes if c.level == FAILING}
        earlier = verdict_of(known, earlier_causes)
        still_holds = still_holds and (earlier == verdict or {earlier, verdict} == {SUSPICIOUS, FAILING})
        if still_holds and (earlier == verdict or verdict == SUSPICIOUS or since is None):
            since = epoch.number
    causes = (*causes, *_past_failures(past, {cause.name for cause in causes}))
    expectations = tuple(one.text for one in compare_with_expected(history, expected))
    return Diagnosis(
        verdict, since, tuple(sorted(causes, key=_gravity)), _evidence(history), history.artefacts, expectations
    )


def find_causes(history: History, expected: ExpectedResults | None = None) -> tuple[Cause, ...]:
    """All causes that the log shows, the most serious and most certain first."""
    found = [cause for check in CHECKS if (cause := check(history))]
    found += _below_expectation(compare_with_expected(history, expected))
    return tuple(sorted(found, key=_gravity))


def _below_expectation(expectations: tuple[Expectation, ...]) -> list[Cause]:
    missed = [one for one in expectations if one.is_met is False]
    if not missed:
        return []
    level = SUSPICIOUS if any(one.is_sure for one in missed) else NOTE
    evidence = "; ".join(one.text for one in missed)
    return [Cause("below_expectation", level, evidence, "compare config.py with the recipe", 25)]


def _gravity(cause: Cause) -> tuple[int, int]:
    return -LEVELS.index(cause.level), -cause.weight


def _past_failures(past: dict[str, str], now: set[str]) -> list[Cause]:
    """Failures of earlier epochs that are over, as notes."""
    fix = "none needed if it stays away"
    return [Cause(name, NOTE, f"over now; {text}", fix, 90) for name, text in past.items() if name not in now]


def verdict_of(history: History, causes: tuple[Cause, ...]) -> str:
    """The most serious level; without a cause a run is healthy once it has shown that it learns."""
    worst = max((cause.level for cause in causes), key=LEVELS.index, default=NOTE)
    if worst != NOTE:
        return worst
    return HEALTHY if shows_learning(history) else CANNOT_TELL


def shows_learning(history: History) -> bool:
    """Whether class scores beat a constant, or validation detects boxes, after an epoch and enough steps."""
    if (last := last_after(history, 1)) is None:
        return False
    skill = last.get("class_skill")
    ratio = separation(last)
    if ratio is not None and ratio < 1.06:
        return False
    names = ("all/agnostic/AP50", "all/per_class/AP50", "model/all/per_class/AP50")
    values = [value for name in names for _, value in history.evaluated(name)]
    return (skill is not None and skill > 0.1) or (bool(values) and max(values) >= 0.1)


def _evidence(history: History) -> dict[str, Any]:
    last = history.last
    if last is None:
        return {}
    training = {name: last.get(name) for name in TRAINING_METRICS}
    return {"epoch": last.number, **training, **{name: last.evaluated(name) for name in EVALUATION_METRICS}}
