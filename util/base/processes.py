"""Processes that end together: a child with its parent, and a parent without waiting for its children.

Knows no torch, so that a program can use it before that is imported.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # of Linux's prctl
LOOK_EVERY = 0.5  # seconds between looks at the launcher
GRACE = 15.0  # seconds for a step and a save
KILLED_WITHIN = 2.0  # seconds that killed children get to disappear; one that waits for a dead disk may take longer


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent is gone, however that ends. Linux only.

    Nothing is lost by it: what is on the disk is whole at any moment.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was gone before the kernel knew
        os._exit(1)


def stop_with_launcher() -> None:
    """Ask this process to stop as soon as its launcher is gone, however that ended, and kill it a while later.

    The launcher would end a rank that waits in vain for another one; without it nobody does.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def kill_children() -> None:
    """Kill the worker processes of this one, and wait a moment until they are gone.

    Python's own exit handler asks them by SIGTERM and then waits without a limit, also for one that ignores it.
    """
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    until = time.monotonic() + KILLED_WITHIN
    for child in children:
        child.join(max(0.0, until - time.monotonic()))


def usable_cores() -> int:
    """Cores that this process may run on: under Slurm those of the allocation, not of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
