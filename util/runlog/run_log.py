"""What a run says: console and info.txt for people, log.jsonl for programs. The only place that prints."""

import json
from pathlib import Path
from typing import Any

from util.base.console import clear_progress, echo
from util.base.files import append, flush, move_aside, truncate
from util.base.text import printable_lines
from util.runlog.rows import read_rows
from util.runlog.tensorboard import FOLDER, Make, ScalarWriter

ROWS = "log.jsonl"
SCHEMA = 2  # of its rows, docs/logs.md


class RunLog:
    """The log of one run, written by one rank; on the others every call does nothing.

    Args:
        folder: the run folder, or None for a rank that keeps silent.
        summary_writer: TensorBoard's, where rows shall go there too; from `start_rows` or `resume_rows` on.
    """

    def __init__(self, folder: Path | None, summary_writer: Make | None = None) -> None:
        self.folder = folder
        self._summary_writer = summary_writer
        self._scalars: ScalarWriter | None = None

    def info(self, text: str) -> None:
        """A message to the console and to info.txt."""
        if self.folder is None:
            return
        clear_progress()
        echo(text)
        append(self.folder / "info.txt", printable_lines(text) + "\n")

    def row(self, kind: str, **values: Any) -> None:
        """A line of log.jsonl."""
        if self.folder is None:
            return
        append(self.folder / ROWS, json.dumps({"kind": kind, **values}) + "\n")
        if self._scalars:
            self._scalars.add({"kind": kind, **values})

    def start(self, **facts: Any) -> None:
        """The row of a start or a resume: what the rows after it are of, and which columns they have."""
        self.row("start", schema=SCHEMA, **facts)

    def start_rows(self) -> None:
        """Start log.jsonl; one that is there is of a training that left no checkpoint, and is set aside."""
        if self.folder is not None and (aside := move_aside(self.folder / ROWS)):
            self.info(f"the rows of an earlier start without a checkpoint are now in {aside.name}")
        self._open_scalars()

    def resume_rows(self, num_bytes: int) -> None:
        """Go on where log.jsonl was `num_bytes` long: later rows are of steps that will be done again.

        Rows that name a checkpoint are of evaluations by a command of their own; they stay.
        """
        if self.folder is None:
            return
        path = self.folder / ROWS
        later = path.read_bytes()[num_bytes:].decode(errors="replace") if path.exists() else ""
        if missing := num_bytes - truncate(path, num_bytes):
            self.info(f"warning: {ROWS} has lost {missing} bytes since the checkpoint; rows are missing in it")
        if kept := "".join(line for line in later.splitlines(keepends=True) if _names_a_checkpoint(line)):
            append(path, kept)
        self._open_scalars()

    def _open_scalars(self) -> None:
        """From now on rows go to TensorBoard, too, which gets to the state of log.jsonl first."""
        if self.folder is not None and self._summary_writer is not None:
            path = self.folder / ROWS
            rows = read_rows(path) if path.exists() else []
            self._scalars = ScalarWriter(self._summary_writer, self.folder / FOLDER, rows)

    def rows_on_disk(self) -> int:
        """Flush log.jsonl to the disk; its length in bytes."""
        return 0 if self.folder is None else flush(self.folder / ROWS)


def _names_a_checkpoint(line: str) -> bool:
    try:
        return line.endswith("\n") and "checkpoint" in json.loads(line)
    except json.JSONDecodeError:  # a row that was torn
        return False
