"""Threads whose program does not wait for what nobody needs any more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(num: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; after an error or Ctrl-C nothing is waited for, neither queued work nor what is under way.

    A read of a disk that does not answer never ends; the threads go with the process.
    """
    pool = ThreadPoolExecutor(num)
    is_whole = False
    try:
        yield pool
        is_whole = True
    finally:
        pool.shutdown(wait=is_whole, cancel_futures=not is_whole)
