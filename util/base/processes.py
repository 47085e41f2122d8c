"""Process lifetimes: workers that die with their parent, ranks that stop with their launcher."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # of Linux's prctl
POLL_INTERVAL = 0.5  # seconds between checks of the launcher
GRACE = 15.0  # seconds to finish a step and save
KILL_TIMEOUT = 2.0  # seconds to wait for killed children; one blocked on a dead disk may take longer


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason. Linux only.

    Nothing is lost, as files are written atomically.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before prctl
        os._exit(1)


def stop_with_launcher() -> None:
    """Send this process SIGTERM when its launcher is gone, and SIGKILL after a grace period.

    The launcher would end a rank that waits in vain for another one; without it nobody does.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(POLL_INTERVAL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def kill_children() -> None:
    """Kill the worker processes of this process and wait briefly for their end.

    Python's own exit handler sends SIGTERM and then waits without a limit, even for a worker that ignores it.
    """
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    until = time.monotonic() + KILL_TIMEOUT
    for child in children:
        child.join(max(0.0, until - time.monotonic()))


def usable_cores() -> int:
    """Cores that this process may run on: under Slurm those of the allocation, not of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
