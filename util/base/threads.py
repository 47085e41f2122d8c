"""Threads whose program does not wait for what nobody needs any more."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

NUM_READERS = 8  # threads; on a network disk they mostly wait, and decoding frees the others
FILES_PER_TASK = 32
Item = TypeVar("Item")
Result = TypeVar("Result")


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


def read_each(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[Result]]:
    """Call a function that reads a file for each item, in threads; yield lists of results, in the order of items."""
    tasks = [items[i : i + FILES_PER_TASK] for i in range(0, len(items), FILES_PER_TASK)]
    with threads(NUM_READERS) as pool:
        yield from pool.map(lambda task: [read(item) for item in task], tasks)
