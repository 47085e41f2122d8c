"""One huge image at a time in this process: each may take hundreds of megabytes, and there are many threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from util.base.memory import give_back_memory

HUGE_PIXELS = 30_000_000
HUGE_BYTES = 2**25  # of a file, or of a part of it, unpacked


class _Thread(threading.local):
    """What this thread gives back at the end of its block."""

    stack: ExitStack | None = None


_THREAD, _TURN = _Thread(), threading.RLock()


@contextmanager
def huge_images_in_turn() -> Iterator[None]:
    """Around the reading and the use of an image: if it turns out to be huge, other threads wait with theirs."""
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
    """Before a huge image takes memory: wait for other huge ones; `huge_images_in_turn` ends the turn.

    Raises:
        RuntimeError: outside of such a block.
    """
    if pixels <= HUGE_PIXELS and num_bytes <= HUGE_BYTES:
        return
    if _THREAD.stack is None:
        raise RuntimeError("take_turn outside of huge_images_in_turn would never end the turn")
    _THREAD.stack.enter_context(_TURN)
    give_back_memory()  # of the huge one before: the C library keeps what is freed, for each thread its own
