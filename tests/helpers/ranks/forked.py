"""Run by tests/failures/test_kills.py: train in processes that are killed, without a new import of torch for each.

    python forked_runs.py PLAN.json

PLAN is a list of the keyword arguments of `run`, `kill_after` being [rows of the log, seconds after that] or null.
Prints a line of JSON per run: how it ended and after how many seconds.
"""

import json
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import torch

import main
from util.distributed.exit_codes import run_to_exit_code


def start(arguments, ranks, out):
    """Fork a process group with one process per rank; the process ids."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    group, pids = 0, []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, group)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if ranks > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                os.environ.update({"MASTER_ADDR": "localhost", **{k: str(v) for k, v in place.items()}})
            os._exit(run_to_exit_code(partial(main.main, arguments)))
        os.setpgid(pid, group or pid)
        group = group or pid
        pids.append(pid)
    return pids


def kill(pids, rows, seconds, folder, in_save):
    """SIGKILL to the whole group, some seconds after the log has so many rows, or at the next save after that.

    Returns whether a save was cut off.
    """
    while num_rows(folder) < rows and not has_ended(pids[0]):
        time.sleep(0.002)
    time.sleep(seconds)
    while in_save and not any(folder.glob(".*.part")) and not has_ended(pids[0]):
        pass
    try:
        os.killpg(pids[0], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return any(folder.glob(".*.part"))


def num_rows(folder):
    """Rows of the log so far."""
    log = folder / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def has_ended(pid):
    """Whether a child is over; its exit code stays for `os.waitpid`."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run(arguments, ranks, kill_after, in_save, folder):
    """One run, and how it ended."""
    begun = time.monotonic()
    with open(f"{folder}.out", "ab") as out:
        pids = start(arguments, ranks, out.fileno())
        cut = False if kill_after is None else kill(pids, *kill_after, Path(folder), in_save)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    for part in Path(folder).glob(".*.part"):  # else the next kill would take it for its own
        part.unlink()
    return {"codes": codes, "seconds": time.monotonic() - begun, "cut_a_save": cut}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(json.dumps(run(**plan)) + "\n")
        sys.stdout.flush()
