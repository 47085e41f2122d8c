"""A polite end: the first SIGUSR1 or SIGTERM asks for it, the second one insists.

Knows no torch, so that a program can listen before that is imported.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
COPY_WITHIN = 1.0  # seconds: a SIGTERM to a whole process group comes once directly and once more through torchrun


class Preempted(Exception):  # noqa: N818 no error: everything is saved
    """The run was asked to stop and has; the same command goes on."""


class StopRequest:
    """Whether somebody asked this process to stop. Only the main thread may call `listen` and `settle`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._made_at = 0.0

    @property
    def is_made(self) -> bool:
        """Whether the first signal came."""
        return self.signal is not None

    def listen(self) -> None:
        """From here on a first signal is noted, and a second one ends the process at once."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def settle(self) -> None:
        """Everything is saved: whatever comes now must not spoil the exit code."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def until_made(self, items: Iterable[T]) -> Iterator[T]:
        """The items, up to the request."""
        for item in items:
            if self.is_made:
                return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._made_at = signal.Signals(number), now
            return
        is_copy = number == self.signal == signal.SIGTERM and now - self._made_at < COPY_WITHIN
        if not is_copy:
            os._exit(128 + number)  # no clean-up that could hang: what is on the disk is whole at any moment


def leave_signals_to_parent(_worker_id: int = 0) -> None:
    """For loader processes: a signal to the whole group must not take the images away before the step is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


STOP = StopRequest()  # signals are a matter of the process, so there is one
