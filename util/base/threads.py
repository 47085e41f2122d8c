"""A thread pool that an error or Ctrl-C ends at once."""

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


def read_each(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[Result]]:
    """Call a function that reads a file for each item, in threads; yield lists of results in the order of the items."""
    tasks = [items[i : i + FILES_PER_TASK] for i in range(0, len(items), FILES_PER_TASK)]
    with threads(NUM_READERS) as pool:
        yield from pool.map(lambda task: [read(item) for item in task], tasks)
