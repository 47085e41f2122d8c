"""Messages and progress on the console. The only place that prints."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from datetime import timedelta
from typing import TextIO

from util.base.launcher import current_process
from util.base.text import printable_lines


def echo(text: object = "", *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text with control characters escaped: names in it come from data and must not steer the terminal."""
    print(printable_lines(str(text)), file=file, end=end, flush=True)


def print_error(text: str) -> None:
    """Print an error message to standard error."""
    from termcolor import colored  # scripts/lib/ranks.py needs the exit codes where no package is installed

    clear_progress()
    print(colored("error:", "red", attrs=["bold"]), printable_lines(text), file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print a note to standard error, on the main rank alone: for code that has no run log."""
    if current_process().is_main:
        clear_progress()
        echo(f"note: {text}", file=sys.stderr)


def clear_progress() -> None:
    """Erase the progress line, so that a message does not land on it."""
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)


def prepare_output() -> None:
    """Let standard output and standard error accept any text.

    /dev/null stands for one that the program was started without. A character that its encoding lacks is written as
    \\xe9 or \\u7ed3.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 stays open to the end
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> bool:
    """Flush standard output and standard error; False if a pipe has no reader any more, as behind `| head`."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        return False
    return True


def is_output_closed() -> bool:
    """Return whether standard output or standard error is a pipe without a reader."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


class Progress:
    """Progress of a long task: one self-updating line on a terminal, a plain line now and then in a file.

    Args:
        label: name of the task.
        total: number of units.
        unit: name of a unit.
        is_shown: False prints nothing.
        every: seconds between plain lines.
        done: units finished before the start.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, is_shown: bool = True, every: float = 30.0, done: int = 0
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.is_shown = is_shown
        self.is_live = sys.stdout.isatty()
        self.interval = 0.2 if self.is_live else every
        self.done = self.first = done
        self.started = self.shown_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count
        now = time.monotonic()
        if self.is_shown and (now - self.shown_at >= self.interval or (self.is_live and self.done >= self.total)):
            self.shown_at = now
            rate = (self.done - self.first) / max(now - self.started, 1e-9)
            left = timedelta(seconds=int((self.total - self.done) / max(rate, 1e-9)))
            line = f"{self.label}: {self.done}/{self.total} {self.unit}  {rate:.1f} {self.unit}/s  eta: {left}"
            if self.is_live:
                clear_progress()
            echo(line, end="" if self.is_live else "\n")

    def close(self) -> None:
        """Erase the line."""
        if self.is_shown:
            clear_progress()
