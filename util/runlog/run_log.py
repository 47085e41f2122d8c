"""The log of a run: messages on the console and in info.txt, rows in log.jsonl and TensorBoard."""

import json
from pathlib import Path
from typing import Any

from util.base.console import clear_progress, echo
from util.base.files import append, flush, move_aside, truncate
from util.base.text import printable_lines
from util.runlog.rows import read_rows
from util.runlog.tensorboard import FOLDER, ScalarWriter, WriterFactory

ROWS = "log.jsonl"
SCHEMA = 2  # version of the rows, docs/logs.md


class RunLog:
    """The log of one run, written by one rank; on the others every call does nothing.

    Args:
        folder: the run folder; None on all ranks but the main one.
        summary_writer: TensorBoard's SummaryWriter class, if rows are to go there from the start or resume on.
    """

    def __init__(self, folder: Path | None, summary_writer: WriterFactory | None = None) -> None:
        self.folder = folder
        self._summary_writer = summary_writer
        self._scalars: ScalarWriter | None = None

    def info(self, text: str) -> None:
        """Write a message to the console and to info.txt."""
        if self.folder is None:
            return
        clear_progress()
        echo(text)
        append(self.folder / "info.txt", printable_lines(text) + "\n")

    def row(self, kind: str, **values: Any) -> None:
        """Append a row to log.jsonl."""
        if self.folder is None:
            return
        append(self.folder / ROWS, json.dumps({"kind": kind, **values}) + "\n")
        if self._scalars:
            self._scalars.add({"kind": kind, **values})

    def start(self, **facts: Any) -> None:
        """Append the row of a start or resume, with facts about the rows after it."""
        self.row("start", schema=SCHEMA, **facts)

    def start_rows(self) -> None:
        """Start log.jsonl; an existing one belongs to a training without a checkpoint and is renamed."""
        if self.folder is not None and (renamed := move_aside(self.folder / ROWS)):
            self.info(f"rows of an earlier start without a checkpoint were moved to {renamed.name}")
        self._open_scalars()

    def resume_rows(self, num_bytes: int) -> None:
        """Truncate log.jsonl to `num_bytes` and continue: the steps of later rows will be repeated.

        Rows that name a checkpoint come from separate evaluation commands; they are kept.
        """
        if self.folder is None:
            return
        path = self.folder / ROWS
        later = path.read_bytes()[num_bytes:].decode(errors="replace") if path.exists() else ""
        if missing := num_bytes - truncate(path, num_bytes):
            self.info(f"warning: {ROWS} has lost {missing} bytes since the checkpoint; rows are missing")
        if kept := "".join(line for line in later.splitlines(keepends=True) if _names_a_checkpoint(line)):
            append(path, kept)
        self._open_scalars()

    def _open_scalars(self) -> None:
        """Bring TensorBoard to the state of log.jsonl, and write later rows to both."""
        if self.folder is not None and self._summary_writer is not None:
            path = self.folder / ROWS
            rows = read_rows(path) if path.exists() else []
            self._scalars = ScalarWriter(self._summary_writer, self.folder / FOLDER, rows)

    def rows_on_disk(self) -> int:
        """Flush log.jsonl to the disk and return its length in bytes."""
        return 0 if self.folder is None else flush(self.folder / ROWS)


def _names_a_checkpoint(line: str) -> bool:
    try:
        return line.endswith("\n") and "checkpoint" in json.loads(line)
    except json.JSONDecodeError:  # a half-written row
        return False
