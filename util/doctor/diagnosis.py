"""What became of a run, from its log: a verdict, the likely causes in order, and the figures that say so.

Everything here is a pure function of a `History`. A verdict on epoch N uses what was known when epoch N was over, so
that the same words come during training and afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from util.doctor.expectations import expectations
from util.doctor.symptoms import CHECKS, FAILING, NOTE, SUSPICIOUS, Cause
from util.doctor.symptoms.cause import has_trained, separation, whole_epochs
from util.runlog.history import History

HEALTHY = "healthy"
CANNOT_TELL = "cannot tell"
LEVELS = (NOTE, SUSPICIOUS, FAILING)
SHOWN = (
    "loss",
    "loss_with_boxes",
    "loss_without_boxes",
    "class_skill",
    "class_skill_if_alpha_25",
    "class_skill_if_alpha_75",
    "class_error",
    "class_error_n",
    "recall_top10",
    "best_score_with_boxes",
    "best_score_without_boxes",
    "predicted_per_image",
    "boxes_per_image",
    "grad_norm",
    "clipped_share",
    "lr",
)
JUDGED = ("all/per_class/AP", "all/agnostic/AP50", "all/per_class/AP50", "all/image/auc")


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says."""

    verdict: str  # HEALTHY, SUSPICIOUS, FAILING or CANNOT_TELL
    epoch: int | None  # since which the verdict holds
    causes: tuple[Cause, ...]  # most likely first; with notes, which do not count for the verdict
    evidence: dict[str, Any]  # figures of the newest epoch
    artefacts: tuple[str, ...]  # figures of the log that say something else than they seem to
    expectations: tuple[str, ...] = ()  # the plan of the tbx11k recipes against what was measured

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        causes = [{"name": c.name, "level": c.level, "evidence": c.evidence, "mend": c.mend} for c in self.causes]
        return {
            "verdict": self.verdict,
            "epoch": self.epoch,
            "causes": causes,
            "evidence": self.evidence,
            "artefacts": list(self.artefacts),
            "expectations": list(self.expectations),
        }

    def as_text(self) -> str:
        """For people."""
        since = "" if self.epoch is None else f" (since epoch {self.epoch})"
        lines = [f"verdict: {self.verdict}{since}"]
        for cause in self.causes:
            lines += [f"- {cause.name} [{cause.level}]: {cause.evidence}", f"  mend: {cause.mend}"]
        shown = {k: v for k, v in self.evidence.items() if v is not None}
        lines += [f"figures: {', '.join(f'{k} {_short(v)}' for k, v in shown.items())}"] if shown else []
        lines += [f"expected: {text}" for text in self.expectations]
        return "\n".join([*lines, *(f"artefact: {text}" for text in self.artefacts)])


def diagnose(history: History) -> Diagnosis:
    """The verdict on a whole run.

    Its `epoch` is the first one since which the verdict has held. A failing run that seemed only suspicious for an
    epoch in between has been failing all along.
    """
    causes = find_causes(history)
    verdict = verdict_of(history, causes)
    since: int | None = None
    past: dict[str, str] = {}
    is_going_on = True
    for epoch in reversed(history.epochs):
        known = history.until(epoch.number)
        then = find_causes(known)
        past |= {c.name: f"in epoch {epoch.number}: {c.evidence}" for c in then if c.level == FAILING}
        said = verdict_of(known, then)
        is_going_on = is_going_on and (said == verdict or {said, verdict} == {SUSPICIOUS, FAILING})
        if is_going_on and (said == verdict or verdict == SUSPICIOUS or since is None):
            since = epoch.number
    causes = (*causes, *_over(past, {cause.name for cause in causes}))
    plan = tuple(line.text for line in expectations(history))
    return Diagnosis(verdict, since, tuple(sorted(causes, key=_gravity)), _figures(history), history.artefacts, plan)


def find_causes(history: History) -> tuple[Cause, ...]:
    """All causes that the figures speak for, the gravest and surest first."""
    found = [cause for check in CHECKS if (cause := check(history))]
    return tuple(sorted(found, key=_gravity))


def _gravity(cause: Cause) -> tuple[int, int]:
    return -LEVELS.index(cause.level), -cause.weight


def _over(past: dict[str, str], now: set[str]) -> list[Cause]:
    """Failures of earlier epochs that are no more."""
    mend = "none needed if it stays away"
    return [Cause(name, NOTE, f"over now; {text}", mend, 90) for name, text in past.items() if name not in now]


def verdict_of(history: History, causes: tuple[Cause, ...]) -> str:
    """The gravest level; without a cause a run is healthy once it has shown that it learns."""
    levels = {cause.level for cause in causes}
    for level in (FAILING, SUSPICIOUS):
        if level in levels:
            return level
    return HEALTHY if shows_learning(history) else CANNOT_TELL


def shows_learning(history: History) -> bool:
    """Scores better than a constant, or boxes found in validation, after an epoch and some steps."""
    if not has_trained(history, 1):
        return False
    last = whole_epochs(history)[-1]
    skill = last.get("class_skill")
    apart = separation(last)
    if apart is not None and apart < 1.06:
        return False
    names = ("all/agnostic/AP50", "all/per_class/AP50", "model/all/per_class/AP50")
    judged = [value for name in names for _, value in history.evaluated(name)]
    return (skill is not None and skill > 0.1) or (bool(judged) and max(judged) >= 0.1)


def _figures(history: History) -> dict[str, Any]:
    last = history.last
    if last is None:
        return {}
    values = {"epoch": last.number, **{name: last.get(name) for name in SHOWN}}
    return {**values, **{name: last.evaluated(name) for name in JUDGED}}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
