"""Where an evaluation writes: into a folder of its own, never over a training or another evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.folder_lock import FolderInUse, lock_folder
from util.config.load import flatten
from util.config.schema import LOCAL, Config
from util.metrics.report.file import REPORT, Report, fingerprint, load_report
from util.metrics.tables import GroundTruth
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS

PREFIX = "eval_"
LONGEST = 60  # characters of the list's name; a folder's name has at most 255 bytes
OF_A_TRAINING = re.compile(r"(best|nonfinite|checkpoint(\.\d+|\d{4,})?)\.pth")
PATHS = ("annotation_file", "image_folder", "checkpoint")
IDENTITY = ("ground_truth", "config", "step", "weights")


def hold_folder(output_dir: Path | None, truth: GroundTruth, facts: Mapping[str, Any], held: ExitStack) -> Path:
    """Choose the folder of an evaluation and hold it, until `held` is closed.

    One in which another evaluation is under way counts as taken, unless the user named it.

    Raises:
        FolderInUse: another process writes into the folder that the user named.
    """
    taken: set[Path] = set()
    while True:
        folder = choose_folder(output_dir, truth, facts, taken)
        with ExitStack() as attempt:
            try:
                attempt.enter_context(lock_folder(folder, "evaluation"))
            except FolderInUse:
                if folder == output_dir:
                    raise
                taken.add(folder)
                continue
            if choose_folder(output_dir, truth, facts, taken) == folder:  # nobody has finished there meanwhile
                held.push(attempt.pop_all())
                return folder


def choose_folder(
    output_dir: Path | None, truth: GroundTruth, facts: Mapping[str, Any], taken: Collection[Path] = ()
) -> Path:
    """The folder of an evaluation: `output_dir`, or eval_LIST in it where it holds a training.

    Without `output_dir` it is eval_LIST beside the checkpoint. Where eval_LIST holds the results of other data, another
    checkpoint or other options, it is eval_LIST_2, and so on: the same evaluation replaces its own results only.

    Args:
        output_dir: as the user gave it.
        truth: the ground truth it is evaluated on.
        facts: other facts of the evaluation, named as in its report.
        taken: folders that others are writing to.
    """
    if output_dir is not None and not holds_training(output_dir):
        return output_dir
    name = f"{PREFIX}{facts['list'][:LONGEST]}"
    names = (name if number == 1 else f"{name}_{number}" for number in count(1))
    folders = ((output_dir or Path(facts["checkpoint"]).parent) / name for name in names)
    facts = {**facts, "ground_truth": fingerprint(truth)}
    return next(folder for folder in folders if folder not in taken and _is_free(folder, facts))


def holds_training(folder: Path) -> bool:
    """Whether a folder has a checkpoint, a row or a report of a training; a report that does not tell counts as one."""
    if not folder.is_dir():
        return False
    if any(OF_A_TRAINING.fullmatch(path.name) for path in folder.iterdir()):
        return True
    rows = read_rows(folder / ROWS) if (folder / ROWS).is_file() else []
    if rows:
        return any(row["kind"] != "eval" or "checkpoint" not in row for row in rows)
    report = _report(folder)
    return (folder / REPORT).exists() and (report is None or "checkpoint" not in report.facts)


def training_of(folder: Path) -> Path:
    """The run folder that the folder of an evaluation lies in; else the folder itself."""
    parent = folder / ".."
    return parent if not holds_training(folder) and holds_training(parent) else folder


def config_fingerprint(config: Config) -> str:
    """A digest of the knobs."""
    knobs = {name: value for name, value in flatten(config).items() if name not in LOCAL}
    return hashlib.sha256(json.dumps(knobs, sort_keys=True).encode()).hexdigest()


def _is_free(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder is not there yet, was left by an evaluation that did not end, or has the same one's results."""
    if not folder.is_dir():
        return not folder.exists() and not folder.is_symlink()
    if holds_training(folder):
        return False
    report = _report(folder)
    return not (folder / REPORT).exists() or (report is not None and _is_same(report.facts, facts))


def _is_same(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    is_same_path = [os.path.abspath(theirs.get(name, "")) == os.path.abspath(ours[name]) for name in PATHS]
    return all(is_same_path) and all(theirs.get(name) == ours[name] for name in IDENTITY)


def _report(folder: Path) -> Report | None:
    """The report of a folder; None where there is none that can be read."""
    try:
        return load_report(folder)
    except UserError:
        return None
