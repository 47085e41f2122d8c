"""Evaluate detections against ground truth: metrics, facts for the report, a table to read, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.base.files import write_whole
from util.config.schema import Config
from util.metrics.files import DETECTIONS, GROUND_TRUTH, PER_IMAGE, save_detections, save_ground_truth, save_report
from util.metrics.operating_point import Rule, choose_threshold
from util.metrics.report.file import REPORT, facts_of_tables
from util.metrics.report.per_image import per_image_csv
from util.metrics.report.protocols import MatchedTables, Metrics, compute_metrics
from util.metrics.report.text_table import format_table
from util.metrics.tables import Detections, GroundTruth
from util.runlog.run_log import RunLog


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
        return {**facts_of_tables(self.study.ground_truth, self.study.detections), "operating_point": point}

    @property
    def text(self) -> str:
        """The table for the log."""
        where = "chosen on these images" if self.is_chosen_here else "chosen before, on validation images"
        line = "operating point: score threshold {threshold:.4g} ({rule}, {})"
        point = line.format(where, **self.operating_point) if self.operating_point else "no operating point"
        return f"{format_table(self.values, self.study.ground_truth)}\n{point}"

    def tell(
        self,
        log: RunLog,
        folder: Path,
        source: Mapping[str, Any] | None = None,
        *,
        epoch: int,
        step: int,
        weights: str,
        **more: str,
    ) -> None:
        """Write metrics, detections, truth and a line per image into a folder, a row and the table into its log.

        The report is last: where this was cut off, the older report does not have the fingerprints of the new tables.

        Args:
            log: gets the row, without intervals: its columns are numbers.
            folder: of the files.
            source: facts of the report: list, files and config; without it the report has no facts.
            epoch: epochs done.
            step: optimizer steps done.
            weights: "ema" or "model".
            more: columns of the row and facts of the report.
        """
        position = {"epoch": max(0, epoch - 1), "step": step, "weights": weights, **more}
        save_detections(folder / DETECTIONS, self.study.detections)
        save_ground_truth(folder / GROUND_TRUTH, self.study.ground_truth)
        write_whole(folder / PER_IMAGE, lambda file: file.write(per_image_csv(self.study).encode()))
        save_report(folder / REPORT, self.values, {**self.facts, **source, **position} if source else None)
        log.row("eval", **position, **self.numbers)
        log.say(f"evaluation after {epoch} epochs, weights: {weights}\n{self.text}")


def evaluate_as_configured(
    truth: GroundTruth,
    found: Detections,
    kinds: Mapping[int, str],
    config: Config,
    operating_point: Mapping[str, Any] | None,
    *,
    has_intervals: bool,
) -> Evaluation:
    """Evaluate with the knobs of a config; see `evaluate_tables`."""
    return evaluate_tables(
        truth,
        found,
        kinds,
        rule=config.eval.operating_rule,
        target=config.eval.operating_target,
        operating_point=operating_point,
        draws=config.eval.bootstrap_draws if has_intervals else 0,
        seed=config.runtime.seed,
    )


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
