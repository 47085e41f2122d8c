"""A thread pool that an error or Ctrl-C ends at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(num: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool; after an error or Ctrl-C neither queued nor running work is waited for.

    A read from a disk that does not answer never ends; such threads end with the process.
    """
    pool = ThreadPoolExecutor(num)
    is_complete = False
    try:
        yield pool
        is_complete = True
    finally:
        pool.shutdown(wait=is_complete, cancel_futures=not is_complete)
