"""Evaluate detections against ground truth: metrics, facts for the report, and a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from util.metrics.operating_point import Rule, choose_threshold
from util.metrics.report.file import facts_of
from util.metrics.report.protocols import Figures, Study, report_of
from util.metrics.report.text_table import format_table
from util.metrics.tables import Detections, GroundTruth


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation."""

    study: Study
    values: Figures
    operating_point: dict[str, Any]  # rule, target, threshold; empty where the rule chose nothing
    is_chosen_here: bool  # on these very images

    @property
    def numbers(self) -> dict[str, float]:
        """The figures without their intervals."""
        return {key: value for key, value in self.values.items() if isinstance(value, float)}

    @property
    def facts(self) -> dict[str, Any]:
        """What the metrics are of, as far as the tables and the operating point tell."""
        point = dict(self.operating_point)
        if point:
            before = "given" if point["rule"] == "given" else "checkpoint"
            point["origin"] = "these images" if self.is_chosen_here else before
        return {**facts_of(self.study.truth, self.study.found), "operating_point": point}

    @property
    def text(self) -> str:
        """The table for the log."""
        where = "chosen on these images" if self.is_chosen_here else "chosen before, on validation images"
        said = "operating point: score >= {threshold:.4g} ({rule}, {})"
        told = said.format(where, **self.operating_point) if self.operating_point else "no operating point"
        return f"{format_table(self.values, self.study.truth)}\n{told}"


def evaluate_tables(
    truth: GroundTruth,
    found: Detections,
    kinds: Mapping[int, str],
    *,
    rule: Rule,
    target: float,
    operating_point: Mapping[str, Any] | None = None,
    draws: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Evaluate at a given operating point, or at the one that `rule` and `target` choose on these images."""
    study = Study(truth, found, kinds)
    chosen = dict(operating_point or {})
    if not chosen:
        threshold = choose_threshold(truth, study.one_once, study.images, rule, target)
        chosen = {} if threshold is None else {"rule": rule, "target": target, "threshold": threshold}
    study = study.at(chosen.get("threshold"))
    return Evaluation(study, report_of(study, draws=draws, seed=seed), chosen, not operating_point)
