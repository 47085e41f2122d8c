"""A DataLoader that reports the death of a worker process as one clear error."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess

from torch.utils.data import DataLoader

from util.base.errors import WorkerDied
from util.detection.batch import Batch, Sample

EXIT_WITHIN = 0.5  # seconds from a broken connection to the end of the process
ADVICE = {
    signal.SIGKILL: "the machine or the job may have run out of memory: ask for more, or lower num_workers",
    signal.SIGBUS: "shared memory (/dev/shm) may be full: make it larger, or lower num_workers",
}


class WatchedLoader(DataLoader[Sample]):
    """A DataLoader that raises WorkerDied where the next batch is requested.

    PyTorch itself raises from a signal handler, so at any line of the program, even while a checkpoint is written.
    """

    workers: Sequence[BaseProcess] = ()

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # PyTorch promises a private class of its own
        """The batches of an epoch.

        Raises:
            WorkerDied: a worker has ended; noticed within about 5 seconds.
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
        """The exit code of a worker that has failed or is about to."""
        until = time.monotonic() + EXIT_WITHIN
        while self.workers:
            failed = next((worker.exitcode for worker in self.workers if worker.exitcode), None)
            if failed is not None or time.monotonic() > until:
                return failed
            time.sleep(0.01)
        return None


def _reason(exitcode: int, num_workers: int) -> str:
    if exitcode > 0:
        return f"one of the {num_workers} loader processes ended with exit code {exitcode}; restart"
    number = signal.Signals(-exitcode)
    advice = ADVICE.get(number, "restart, and look for the sender of the signal")
    return (
        f"one of the {num_workers} loader processes was killed by {number.name}; {advice}. The same command "
        "resumes from the last checkpoint"
    )
