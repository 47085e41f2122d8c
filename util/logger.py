"""What a run says: console and info.txt for people, log.jsonl for programs. The only place that prints."""

import json
import os
import select
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from util.files import append, cut_off, flush, set_aside
from util.history import read_rows
from util.launcher import announced
from util.tensorboard_writer import FOLDER, Make, ScalarWriter
from util.text import printable_lines

ROWS = "log.jsonl"
SCHEMA = 2  # of its rows, docs/logs.md


class RunLog:
    """The log of one run, written by one rank; on the others every call does nothing.

    Args:
        folder: the run folder, or None for a rank that keeps silent.
        summary_writer: TensorBoard's, where rows shall go there too; from `begin_rows` or `go_on_rows` on.
    """

    def __init__(self, folder: Path | None, summary_writer: Make | None = None) -> None:
        self.folder = folder
        self._summary_writer = summary_writer
        self._scalars: ScalarWriter | None = None

    def say(self, text: str) -> None:
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

    def begin_rows(self) -> None:
        """Start log.jsonl; one that is there is of a training that left no checkpoint, and is set aside."""
        if self.folder is not None and (aside := set_aside(self.folder / ROWS)):
            self.say(f"the rows of an earlier start without a checkpoint are now in {aside.name}")
        self._open_scalars()

    def go_on_rows(self, num_bytes: int) -> None:
        """Go on where log.jsonl was `num_bytes` long: later rows are of steps that will be done again.

        Rows that name a checkpoint are of evaluations by a command of their own; they stay.
        """
        if self.folder is None:
            return
        path = self.folder / ROWS
        later = path.read_bytes()[num_bytes:].decode(errors="replace") if path.exists() else ""
        if missing := num_bytes - cut_off(path, num_bytes):
            self.say(f"warning: {ROWS} has lost {missing} bytes since the checkpoint; rows are missing in it")
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


def echo(text: object = "", *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, on standard output unless said: names in it may be a stranger's, and steer no terminal."""
    print(printable_lines(str(text)), file=file, end=end, flush=True)


def complain(text: str) -> None:
    """An error for the user, on standard error."""
    from termcolor import colored  # scripts/ranks.py needs the exit codes where no package is installed

    clear_progress()
    print(colored("error:", "red", attrs=["bold"]), printable_lines(text), file=sys.stderr, flush=True)


def remark(text: str) -> None:
    """Something worth knowing that no log is there for yet, on standard error, by one rank."""
    if announced().is_main:
        clear_progress()
        echo(f"note: {text}", file=sys.stderr)


def clear_progress() -> None:
    """Wipe the progress line, so that a message does not land on it."""
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)


def open_closed_output() -> None:
    """Where a program was started without standard output or standard error, send there what is printed to nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 stays open to the end


def flush_output() -> bool:
    """Bring all that was printed to its reader; False where there is none any more, as behind `| head`."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        return False
    return True


def is_output_closed() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


class Progress:
    """How far a long piece of work is: one line that renews itself on a terminal, a plain line now and then in a file.

    Args:
        label: what is being done.
        total: how many units there are.
        unit: what is counted.
        is_shown: False keeps silent.
        every: seconds between plain lines.
        done: units that were done before.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, is_shown: bool = True, every: float = 30.0, done: int = 0
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.is_shown = is_shown
        self.is_live = sys.stdout.isatty()
        self.interval = 0.2 if self.is_live else every
        self.done = self.first = done
        self.started = self.told = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """`count` units more are done."""
        self.done += count
        now = time.monotonic()
        if self.is_shown and (now - self.told >= self.interval or (self.is_live and self.done >= self.total)):
            self.told = now
            rate = (self.done - self.first) / max(now - self.started, 1e-9)
            left = timedelta(seconds=int((self.total - self.done) / max(rate, 1e-9)))
            line = f"{self.label}: {self.done}/{self.total} {self.unit}  {rate:.1f} {self.unit}/s  eta: {left}"
            if self.is_live:
                clear_progress()
            echo(line, end="" if self.is_live else "\n")

    def close(self) -> None:
        """Leave the line to others."""
        if self.is_shown:
            clear_progress()
