"""Evaluate detections against ground truth: metrics, facts for the report, and a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from util import __version__
from util.metrics.operating_point import Rule, choose_threshold
from util.metrics.report.file import facts_of_tables
from util.metrics.report.protocols import MatchedTables, Metrics, compute_metrics
from util.metrics.report.text_table import format_table
from util.metrics.tables import Detections, GroundTruth


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation."""

    study: MatchedTables
    values: Metrics
    operating_point: dict[str, Any]  # rule, target, threshold; empty where the rule chose nothing
    is_chosen_here: bool  # on these very images

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics without their intervals."""
        return {key: value for key, value in self.values.items() if isinstance(value, float)}

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the report that follow from the tables and the operating point."""
        point = dict(self.operating_point)
        if point:
            before = "given" if point["rule"] == "given" else "checkpoint"
            point["origin"] = "these images" if self.is_chosen_here else before
        return {
            **facts_of_tables(self.study.ground_truth, self.study.detections),
            "operating_point": point,
            "version": __version__,
        }

    @property
    def text(self) -> str:
        """The table for the log."""
        where = "chosen on these images" if self.is_chosen_here else "chosen before, on validation images"
        line = "operating point: score threshold {threshold:.4g} ({rule}, {})"
        point = line.format(where, **self.operating_point) if self.operating_point else "no operating point"
        return f"{format_table(self.values, self.study.ground_truth)}\n{point}"


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
    study = MatchedTables(truth, found, kinds)
    chosen = dict(operating_point or {})
    if not chosen:
        threshold = choose_threshold(truth, study.deduplicated, study.image_scores, rule, target)
        chosen = {} if threshold is None else {"rule": rule, "target": target, "threshold": threshold}
    study = study.at(chosen.get("threshold"))
    return Evaluation(study, compute_metrics(study, draws=draws, seed=seed), chosen, not operating_point)
