"""Messages and progress on the console. The only place that prints."""

from __future__ import annotations

import os
import select
import sys
import time
from datetime import timedelta
from typing import TextIO

from util.base.launcher import announced
from util.base.text import printable_lines


def echo(text: object = "", *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, on standard output unless said: names in it may be a stranger's, and steer no terminal."""
    print(printable_lines(str(text)), file=file, end=end, flush=True)


def complain(text: str) -> None:
    """An error for the user, on standard error."""
    from termcolor import colored  # scripts/lib/ranks.py needs the exit codes where no package is installed

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
        self.label = label
        self.total = total
        self.unit = unit
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
