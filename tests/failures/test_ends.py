"""Whatever ends a training, it is gone within seconds, with all its processes, and the next start goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.training import ROOT, assert_same_state, call_apart, figures, first_image, load, rows, training

pytest_plugins = ["tests.helpers.training_fixtures"]
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "helpers" / "faulty_runs.py"
CHANGES = {"epochs": 3, "lr_drop": [2], "checkpoint_every_minutes": 1e-9}
WORKERS = (0, 1, 2, 4)
WORKERS_OF_RANKS = WORKERS if os.environ.get("ALL_VARIATIONS") else (2,)  # a run of torchrun takes half a minute
WITHIN = 20.0  # seconds, on loaded cores
# fault -> exit code, and what the last line of the console says
FAULTS = {
    "in_image": (2, "cannot be read as an image"),
    "in_worker": (1, "loader processes was killed by SIGKILL"),
    "in_step": (1, "RuntimeError: boom"),
    "in_evaluation": (1, "RuntimeError: boom"),
    "in_checkpoint": (1, "RuntimeError: boom"),
    "by_ctrl_c": (130, "interrupted; the same command resumes from what was saved"),
    "in_output": (-signal.SIGPIPE, ""),
}


def plan(data, folder, fault, num_workers):
    """What tests/helpers/faulty_runs.py is told about one run."""
    return {
        "arguments": training(data, folder, **CHANGES, num_workers=num_workers),
        "fault": fault,
        "image": str(first_image(data)),
        "out": f"{folder}.out",
    }


def run_all(room, *plans):
    """The outcomes of a list of runs."""
    path = room / "plan.json"
    path.write_text(json.dumps(plans))
    outcome = call_apart(SCRIPT, path, timeout=600, env={"PYTHONPATH": str(ROOT)})
    assert outcome.code == 0, outcome.err
    return list(map(json.loads, outcome.out.splitlines()))


@pytest.fixture(scope="session")
def whole(phantom, tmp_path_factory):
    """An undisturbed run."""
    room = tmp_path_factory.mktemp("whole")
    [end] = run_all(room, plan(phantom, room / "run", None, 0))
    assert end["code"] == 0, (room / "run.out").read_text()
    return room / "run"


def assert_same_run(run, whole):
    """Weights, averages and moments are equal to the bit, and each row is there once.

    The number of workers and how a step is shared out may differ; they stay in the config.
    """
    ours, theirs = load(run / "checkpoint.pth"), load(whole / "checkpoint.pth")
    for knob in ("num_workers", "gradient_accumulation_steps"):
        theirs["config"][knob] = ours["config"][knob]
    assert_same_state(ours, theirs)
    assert not list(run.glob(".*.part"))


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_training_ends_and_the_next_start_goes_on(phantom, room, whole, fault):
    """With any number of workers; all in one process, as each import of torch takes longer than a training."""
    folders = {number: room / f"run{number}" for number in WORKERS}
    data = {number: shutil.copytree(phantom, room / f"data{number}") for number in WORKERS}
    ends = run_all(room, *(plan(data[number], folders[number], fault, number) for number in WORKERS))
    for number, end in zip(WORKERS, ends, strict=True):
        check_end(fault, number, end, (room / f"run{number}.out").read_text())
        shutil.copy2(first_image(phantom), first_image(data[number]))
    again = run_all(room, *(plan(data[number], folders[number], None, number) for number in WORKERS))
    for number, end in zip(WORKERS, again, strict=True):
        assert (end["code"], end["left"]) == (0, False), (room / f"run{number}.out").read_text()
        assert_same_run(folders[number], whole)
        assert figures(folders[number]) == figures(whole)


def check_end(fault, num_workers, end, said):
    """It ended soon, with the right code, left no process, and its message stands last."""
    code, last = FAULTS[fault]
    if (fault, num_workers) == ("in_worker", 0):
        code, last = -signal.SIGKILL, ""
    assert (end["code"], end["left"]) == (code, False), said
    assert end["seconds"] < WITHIN
    assert last in (said.rstrip().splitlines() or [""])[-1], said


class Torchrun:
    """A training of two ranks whose processes carry a mark of their own."""

    def __init__(self, data, folder, num_workers):
        changes = {**CHANGES, "gradient_accumulation_steps": 1, "num_workers": num_workers}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "main.py"]
        self.mark = f"DINO_TEST_MARK={folder}"
        self.console = open(f"{folder}.out", "ab")  # noqa: SIM115 closed with the process
        self.process = subprocess.Popen(
            [*launch, *training(data, folder, **changes)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **dict([self.mark.split("=", 1)])},
            stdout=self.console,
            stderr=self.console,
            start_new_session=True,
        )

    @property
    def family(self):
        """All its processes: launcher, ranks, workers."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    @property
    def ranks(self):
        """The ranks."""
        return [pid for pid in self.family if parent_of(pid) == self.process.pid]

    def wait_until_gone(self):
        """Seconds until no process is left."""
        begun = time.monotonic()
        while self.family and time.monotonic() - begun < 2 * WITHIN:
            self.process.poll()
            time.sleep(0.05)
        left = self.family
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
        return time.monotonic() - begun


def parent_of(pid):
    """The parent of a process, None where it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("victim", "num_workers"),
    [
        *((victim, number) for victim in ("rank 0", "rank 1", "launcher") for number in WORKERS_OF_RANKS),
        ("starting launcher", 2),  # there are no workers yet
        ("starting rank", 2),
    ],
)
def test_where_a_rank_or_its_launcher_is_killed_all_end(phantom, room, whole, victim, num_workers):
    run = room / "run"
    begun = Torchrun(phantom, run, num_workers)
    ready = (lambda: len(begun.ranks) == 2) if victim.startswith("starting") else (lambda: steps_done(run) > 2)
    until = time.monotonic() + 120
    while not ready():
        assert begun.process.poll() is None, (room / "run.out").read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(1.0 if victim == "starting rank" else 0.0)  # a launcher may be gone before a rank can watch it
    targets = {"rank 0": 0, "rank 1": 1, "starting rank": 1}
    pid = sorted(begun.ranks)[targets[victim]] if victim in targets else begun.process.pid
    os.kill(pid, signal.SIGKILL)
    seconds = begun.wait_until_gone()
    assert begun.process.wait() == (1 if victim in targets else -signal.SIGKILL)
    assert seconds < WITHIN, (room / "run.out").read_text()
    again = Torchrun(phantom, run, num_workers)
    assert again.process.wait(240) == 0, (room / "run.out").read_text()
    assert not again.family
    assert_same_run(run, whole)
    steps = [row["step"] for row in rows(run, "train")]
    assert steps == [row["step"] for row in rows(whole, "train")]


def steps_done(folder):
    """Steps in the log so far."""
    return len(rows(folder, "train")) if (folder / "log.jsonl").exists() else 0
