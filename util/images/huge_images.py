"""Let threads read huge images one at a time: each may take hundreds of megabytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from util.base.memory import give_back_memory

HUGE_PIXELS = 30_000_000
HUGE_BYTES = 2**25  # of a file, or of a part of it, unpacked


class _Thread(threading.local):
    """What this thread releases at the end of its block."""

    stack: ExitStack | None = None


_THREAD = _Thread()
_TURN = threading.RLock()


@contextmanager
def huge_images_in_turn() -> Iterator[None]:
    """Enclose the reading and the use of an image: where it is huge, other threads wait with their huge ones."""
    if _THREAD.stack is not None:
        yield
        return
    with ExitStack() as stack:
        _THREAD.stack = stack
        try:
            yield
        finally:
            _THREAD.stack = None


def take_turn(*, pixels: int = 0, num_bytes: int = 0) -> None:
    """Wait for the huge images of other threads, before one takes memory; `huge_images_in_turn` ends the turn.

    Raises:
        RuntimeError: outside of such a block.
    """
    if pixels <= HUGE_PIXELS and num_bytes <= HUGE_BYTES:
        return
    if _THREAD.stack is None:
        raise RuntimeError("take_turn outside of huge_images_in_turn would never end the turn")
    _THREAD.stack.enter_context(_TURN)
    give_back_memory()  # of the huge image before: the C library keeps freed memory, for each thread its own
