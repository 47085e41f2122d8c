"""Requests to stop: the first SIGUSR1 or SIGTERM lets the run save and stop, a second one ends it at once.

Needs no torch, so a program can listen before the slow import.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from util.base.console import print_note
from util.base.launcher import is_under_torchrun, write_exit_code
from util.base.processes import die_with_parent

T = TypeVar("T")

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
POLL_INTERVAL = 1.0  # seconds between checks of the file, which may lie on a slow disk


class Preempted(Exception):  # noqa: N818 not an error
    """The run has saved everything and stopped on request; the same command resumes it."""


class StopRequest:
    """A request to stop this process, by a signal or by a file, which unlike a signal cannot come too early.

    Only the main thread may call `listen` and `ignore_further_signals`.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._is_listening = False
        self._file: Path | None = None
        self._checked_at = -POLL_INTERVAL
        self._file_exists = False

    def watch_file(self, file: Path) -> None:
        """Treat the existence of a file as a request too."""
        self._file = file

    @property
    def is_requested(self) -> bool:
        """Return whether a signal came or the file exists."""
        if self._file is not None and not self._file_exists and time.monotonic() - self._checked_at >= POLL_INTERVAL:
            self._checked_at = time.monotonic()
            self._file_exists = self._file.exists()
        return self.signal is not None or self._file_exists

    @property
    def requested_by(self) -> str:
        """Name the source of the request: a signal, the file, or another rank."""
        if self.signal is not None:
            return self.signal.name
        return str(self._file) if self._file_exists else "another rank"

    def listen(self) -> None:
        """Record a first signal from now on; a second one ends the process at once.

        Under torchrun a second SIGTERM does not, as torchrun forwards its own.
        """
        self._is_listening = True
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def ignore_further_signals(self) -> None:
        """Call after saving: ignore signals, so that none changes the exit code, and delete the file."""
        if self._file is not None:
            _remove(self._file)
        for number in SIGNALS if self._is_listening else ():
            signal.signal(number, signal.SIG_IGN)

    def until_requested(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items until a request comes."""
        for item in items:
            if self.is_requested:
                return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif not (number == signal.SIGTERM and is_under_torchrun()):
            _exit_now(128 + number)


def _exit_now(code: int) -> None:
    """End without a clean-up that could hang; nothing is lost, as files are written atomically."""
    try:
        write_exit_code(code)
    finally:
        os._exit(code)


def _remove(file: Path) -> None:
    """Remove the file, or an empty folder created in its place."""
    try:
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        print_note(f"{file}: cannot be removed ({error.strerror}); remove it, or the next run stops at once")


def ignore_signals_in_worker(_worker_id: int = 0) -> None:
    """Ignore signals in a loader worker: a signal to the whole process group must not interrupt the step under way.

    The parent kills its workers when it ends, and the kernel does when the parent is killed.
    """
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


STOP = StopRequest()  # one per process, as signal handlers are
