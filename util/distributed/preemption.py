"""A polite end: the first SIGUSR1 or SIGTERM asks for it, the second one insists.

Knows no torch, so that a program can listen before that is imported.
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
LOOK_EVERY = 1.0  # seconds between looks at the file, which may lie on a slow disk


class Preempted(Exception):  # noqa: N818 no error: everything is saved
    """The run was asked to stop and has; the same command goes on."""


class StopRequest:
    """Whether somebody asked this process to stop, by a signal or by a file: a file cannot come too early.

    Only the main thread may call `listen` and `ignore_further_signals`.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._is_listening = False
        self._file: Path | None = None
        self._looked_at = -LOOK_EVERY
        self._found = False

    def watch_file(self, file: Path) -> None:
        """From here on this file, once it is there, asks too."""
        self._file = file

    @property
    def is_requested(self) -> bool:
        """Whether a signal came or the file is there."""
        if self._file is not None and not self._found and time.monotonic() - self._looked_at >= LOOK_EVERY:
            self._looked_at = time.monotonic()
            self._found = self._file.exists()
        return self.signal is not None or self._found

    @property
    def requested_by(self) -> str:
        """Who asked: the signal's name, the file, or, on this rank, nobody."""
        if self.signal is not None:
            return self.signal.name
        return str(self._file) if self._found else "another rank"

    def listen(self) -> None:
        """From here on a first signal is noted, and a second one ends the process at once.

        Under torchrun a second SIGTERM does not: it is the one that torchrun passes on.
        """
        self._is_listening = True
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def ignore_further_signals(self) -> None:
        """Everything is saved: whatever comes now must not spoil the exit code. The file has done its duty."""
        if self._file is not None:
            _remove(self._file)
        for number in SIGNALS if self._is_listening else ():
            signal.signal(number, signal.SIG_IGN)

    def until_requested(self, items: Iterable[T]) -> Iterator[T]:
        """The items, up to the request."""
        for item in items:
            if self.is_requested:
                return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif not (number == signal.SIGTERM and is_under_torchrun()):
            _leave_now(128 + number)


def _leave_now(code: int) -> None:
    """End without a clean-up that could hang: what is on the disk is whole at any moment."""
    try:
        write_exit_code(code)
    finally:
        os._exit(code)


def _remove(file: Path) -> None:
    """Remove the file, or an empty folder that somebody made instead of it."""
    try:
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        print_note(f"{file}: cannot be removed ({error.strerror}); remove it, or the next start stops at once")


def ignore_signals_in_worker(_worker_id: int = 0) -> None:
    """For loader processes: a signal to the whole group must not take the images away before the step is done.

    Deaf to signals they can only be killed, which the parent does where it ends, and the kernel where that is killed.
    """
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


STOP = StopRequest()  # signals are a matter of the process, so there is one
