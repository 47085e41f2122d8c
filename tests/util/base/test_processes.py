"""Processes that end together."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

CHILD = """
import multiprocessing, os, signal, sys, time
from util.base.processes import die_with_parent

def child():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

multiprocessing.Process(target=child).start()
time.sleep(600)
"""
RANK = """
import os, signal, subprocess, sys, time
import util.base.processes
util.base.processes.LOOK_EVERY, util.base.processes.GRACE = 0.05, 0.5
from util.base.processes import stop_with_launcher
from util.distributed.preemption import STOP
if len(sys.argv) > 1:
    STOP.listen()
    stop_with_launcher()
    print(os.getpid(), flush=True)
    while not STOP.is_made or sys.argv[1] == "stuck":
        time.sleep(0.05)
    print("saved", flush=True)
else:
    subprocess.run([sys.executable, "-c", open("/proc/self/cmdline").read().split(chr(0))[2], os.environ["RANK_IS"]])
"""


def run_and_kill(text, **env):
    """Kill a process once its child has said its id; the id, and what else the child says until it is gone."""
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    return pid, process.stdout.read()  # to its end: the child has it open, too


def is_gone(pid):
    """Whether a process ends within a second."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                time.sleep(0.01)
                continue
        return True
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own service")
def test_a_child_that_ignores_signals_dies_with_its_parent():
    pid, _ = run_and_kill(CHILD)
    assert is_gone(pid)


@pytest.mark.parametrize(("kind", "said"), [("alive", "saved\n"), ("stuck", "")])
def test_a_rank_whose_launcher_is_killed_saves_or_is_killed(kind, said):
    pid, rest = run_and_kill(RANK, RANK_IS=kind)
    assert rest == said
    assert is_gone(pid)
