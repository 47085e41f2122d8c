"""Run by tests/failures/test_ends.py: trainings in which something goes wrong, in processes forked from this one.

    python faulty_runs.py PLAN.json

PLAN is a list of the keyword arguments of `run`. Prints a line of JSON per run: how it ended, how many seconds after
the fault, and whether a process was left.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

import main
from util.distributed.exit_codes import run_program
from util.training import evaluation, run_state

PATIENCE = 120.0  # seconds until a training that does not end is killed


class Fault:
    """Something that goes wrong in a training, and a pipe that tells when."""

    def __init__(self, image):
        self.image = Path(image)
        self.heard, self._told = os.pipe()
        self.reader, self.output = os.pipe()

    def happens(self):
        """From now on the time counts."""
        os.write(self._told, b"!")

    def boom(self, *_args, **_more):
        """What no program expects."""
        self.happens()
        raise RuntimeError("boom")

    def after(self, name, condition, act):
        """Have `act` called after main's function of that name, where the run is at some point."""
        before = getattr(main, name)

        def and_act(run, *rest):
            before(run, *rest)
            if condition(run.state):
                act()

        setattr(main, name, and_act)

    def at_step(self, act):
        """Have it called after the fourth step."""
        self.after("after_step", lambda state: state.step == 4, act)

    def in_image(self):
        """After the first epoch, half of a file is gone."""

        def halve():
            self.image.write_bytes(self.image.read_bytes()[: self.image.stat().st_size // 2])
            self.happens()

        self.after("after_epoch", lambda state: (state.epoch, state.window) == (1, 0), halve)

    def in_worker(self):
        """SIGKILL to a loader process, as where memory is short; without one, to the training itself."""

        def kill():
            self.happens()
            os.kill(next((child.pid for child in multiprocessing.active_children()), os.getpid()), signal.SIGKILL)

        self.at_step(kill)

    def in_step(self):
        """An error after a step."""
        self.at_step(self.boom)

    def in_evaluation(self):
        """An error where detections are compared with boxes."""
        evaluation.evaluate_tables = self.boom

    def in_checkpoint(self):
        """An error in the write of a checkpoint."""
        self.at_step(lambda: setattr(run_state, "save", self.boom))

    def by_ctrl_c(self):
        """SIGINT to the whole group, workers included."""

        def interrupt():
            self.happens()
            os.killpg(0, signal.SIGINT)

        self.at_step(interrupt)

    def in_output(self):
        """Nobody reads standard output any more."""
        os.dup2(self.output, 1)
        self.at_step(lambda: (self.happens(), time.sleep(0.5)))  # until the reader has heard


def run(arguments, fault, image, out):
    """One training, and how it ended."""
    trouble = Fault(image)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setpgid(0, 0)
        os.close(trouble.reader)
        console = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(console, 1)
        os.dup2(console, 2)
        if fault:
            getattr(trouble, fault)()
        run_program(partial(main.main, arguments))
    begun, since = time.monotonic(), None
    os.set_blocking(trouble.heard, False)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if since is None and is_heard(trouble.heard):
            since = time.monotonic()
            os.close(trouble.reader)
        if time.monotonic() - begun > PATIENCE:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    seconds = time.monotonic() - (since or begun)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "seconds": seconds, "left": is_left(pid)}


def is_heard(pipe):
    """Whether the fault has happened."""
    try:
        return bool(os.read(pipe, 1))
    except BlockingIOError:
        return False


def is_left(group):
    """Whether a process of a group is still there a moment later."""
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(json.dumps(run(**plan)) + "\n")
        sys.stdout.flush()
