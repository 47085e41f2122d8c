"""A DataLoader that says what became of a worker process that is gone."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess

from torch.utils.data import DataLoader

from util.base.errors import WorkerDied
from util.detection.batch import Batch

GONE_WITHIN = 0.5  # seconds from a broken connection to the end of the process
ADVICE = {
    signal.SIGKILL: "the machine or the job may have run out of memory: ask for more, or lower num_workers",
    signal.SIGBUS: "shared memory (/dev/shm) may be full: make it larger, or lower num_workers",
}


class WatchedLoader(DataLoader[Batch]):
    """PyTorch's DataLoader, but a dead worker is one clear error, raised where the next batch is asked for.

    PyTorch itself raises it from a signal handler, so at any line of the program: also while a checkpoint is written.
    """

    workers: Sequence[BaseProcess] = ()

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch.

        Raises:
            WorkerDied: a worker is gone; noticed within about 5 seconds.
        """
        try:
            others = multiprocessing.active_children()
            batches = super().__iter__()
            self.workers = self.workers or [w for w in multiprocessing.active_children() if w not in others]
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:  # the last two where a batch waits inside a dead worker
            code = self._first_failure()
            if code is None:
                raise
            raise WorkerDied(_reason(code, self.num_workers)) from error

    def _first_failure(self) -> int | None:
        """The exit code of a worker that is gone, or is just going."""
        until = time.monotonic() + GONE_WITHIN
        while self.workers:
            failed = next((worker.exitcode for worker in self.workers if worker.exitcode), None)
            if failed is not None or time.monotonic() > until:
                return failed
            time.sleep(0.01)
        return None


def _reason(exitcode: int, num_workers: int) -> str:
    if exitcode > 0:
        return f"one of the {num_workers} loader processes ended with exit code {exitcode}; start again"
    number = signal.Signals(-exitcode)
    advice = ADVICE.get(number, "start again, and look for what sent it")
    return (
        f"one of the {num_workers} loader processes was killed by {number.name}; {advice}. The same command goes on "
        "from the last checkpoint"
    )
