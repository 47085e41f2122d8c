"""Evaluate in a run: merge the detections of all ranks, compute the metrics that the config asks for, write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from util.base.console import Progress
from util.base.files import write_atomically
from util.base.launcher import ProcessInfo
from util.detection.batch import Batch
from util.distributed.collectives import gather_objects
from util.distributed.preemption import STOP
from util.metrics.files import DETECTIONS, GROUND_TRUTH, PER_IMAGE, save_detections, save_ground_truth, save_report
from util.metrics.report.evaluation import Evaluation, evaluate_tables
from util.metrics.report.file import REPORT
from util.metrics.report.per_image import per_image_csv
from util.metrics.tables import Detections, GroundTruth, merge_detections
from util.runlog.run_log import RunLog
from util.training.run_folder import RunFolder, exit_for_requeue, save_config
from util.training.run_state import RunState


def until_stop_request(loader: DataLoader[Any], process: ProcessInfo) -> Iterator[Batch]:
    """Yield the batches of an evaluation until a stop is requested; the main rank shows the progress."""
    progress = Progress("evaluation", len(loader), "batches", is_shown=process.is_main)
    for batch in STOP.until_requested(loader):
        yield batch
        progress.advance()
    progress.close()


def evaluate_parts(
    folder: RunFolder,
    state: RunState[Any],
    part: Detections,
    truth: GroundTruth,
    kinds: Mapping[int, str],
    source: Mapping[str, Any],
) -> dict[str, float]:
    """Evaluate the detections of all ranks with the knobs of the config; all ranks must call it together.

    In a training the operating point is chosen on these images, and only the last evaluation has 95 % intervals. A
    checkpoint that is evaluated by itself is evaluated at its own operating point if it has one, with intervals.

    Args:
        folder: of the run; gets the results.
        state: has the operating point of a checkpoint; gets the one that was chosen.
        part: detections of this rank.
        truth: ground truth of all images.
        kinds: of the images without a box, by id.
        source: facts for the report: list, files and config.

    Returns:
        the metrics on the main rank, nothing on the others.

    Raises:
        Preempted: a rank was asked to stop, so that its detections are incomplete.
    """
    parts = gather_objects((part, STOP.is_requested))
    if any(is_asked for _, is_asked in parts):
        exit_for_requeue(folder.log, "while evaluating; the same command evaluates again")
    if not folder.process.is_main:
        return {}
    config = folder.config
    is_final = not folder.is_of_training or state.epoch == config.optim.epochs
    evaluation = evaluate_tables(
        truth,
        merge_detections([part for part, _ in parts], truth.images),
        kinds,
        rule=config.eval.operating_rule,
        target=config.eval.operating_target,
        operating_point=None if folder.is_of_training else state.operating_point,
        draws=config.eval.bootstrap_draws if is_final else 0,
        seed=config.runtime.seed,
    )
    state.operating_point = evaluation.operating_point
    if not folder.is_of_training:
        save_config(folder.path, config, folder.process)
    write_evaluation(
        evaluation, folder.log, folder.path, source, epoch=state.epoch, step=state.step, labels=folder.labels
    )
    return evaluation.numbers


def write_evaluation(
    evaluation: Evaluation,
    log: RunLog,
    folder: Path,
    source: Mapping[str, Any] | None = None,
    *,
    epoch: int,
    step: int,
    labels: Mapping[str, str],
) -> None:
    """Write detections, ground truth, a line per image and the report into a folder; a row and the table into its log.

    The report is last: after an interruption, the older report does not have the fingerprints of the new tables.

    Args:
        evaluation: the results.
        log: gets the row, without intervals: its columns are numbers.
        folder: of the files.
        source: facts of the report: list, files and config; without it the report has no facts.
        epoch: epochs done.
        step: optimizer steps done.
        labels: further columns of the row and facts of the report; see `RunFolder`.
    """
    position = {"epoch": max(0, epoch - 1), "step": step, **labels}
    save_detections(folder / DETECTIONS, evaluation.study.detections)
    save_ground_truth(folder / GROUND_TRUTH, evaluation.study.ground_truth)
    write_atomically(folder / PER_IMAGE, lambda file: file.write(per_image_csv(evaluation.study).encode()))
    save_report(folder / REPORT, evaluation.values, {**evaluation.facts, **source, **position} if source else None)
    log.row("eval", **position, **evaluation.numbers)
    log.info(f"evaluation after {epoch} epochs, weights: {labels['weights']}\n{evaluation.text}")
