"""Two trainings in one run folder: one trains, the other is refused and leaves no trace."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.training import (
    ROOT,
    assert_refused,
    assert_same_state,
    call,
    call_apart,
    copy_run,
    figures,
    load,
    rows,
    snapshot,
    training,
)
from util.base.folder_lock import LOCK, lock_folder

pytest_plugins = ["tests.helpers.training_fixtures"]
TRIES, SEED = 6, 0
LONGER = {"epochs": 4, "num_workers": 1}
REFUSED = "another training is writing there (process "


def start(arguments, out):
    """A training in a process group of its own."""
    with out.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.01)


def test_a_training_into_a_folder_that_is_held_is_refused_before_anything_else(trained, phantom, room):
    run = copy_run(trained, room / "run")
    with lock_folder(run, "training"):
        before = snapshot(run)
        assert_refused(call(*training(phantom, run, epochs=3)), f"{run}: {REFUSED}{os.getpid()} on ")
        assert_refused(call(*training(room / "no data", run)), f"{run}: {REFUSED}{os.getpid()} on ")
        assert snapshot(run) == before
    assert call(*training(phantom, run)).code == 0
    assert not (run / LOCK).exists()


def test_what_a_killed_save_left_goes_when_the_run_goes_on(trained, phantom, room):
    run = copy_run(trained, room / "run")
    (run / ".checkpoint.pth.1.part").write_bytes(b"half")
    assert call(*training(phantom, run)).code == 0
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert call(*training(phantom, folder, **LONGER)).code == 0
    return folder


@pytest.mark.slow
def test_of_two_starts_at_any_distance_one_trains_and_the_other_is_refused(whole, phantom, room):
    draw, num_refused = random.Random(SEED), 0
    for number in range(TRIES):
        run, gap = room / f"run{number}", draw.choice([0.0, 0.01, 1.0]) * draw.uniform(0, 3)
        command = training(phantom, run, **LONGER)
        first = start(command, room / "0.out")
        time.sleep(gap)
        second = start(command, room / "1.out")
        codes = [process.wait(timeout=120) for process in (first, second)]
        said = [(room / f"{n}.out").read_text() for n in range(2)]
        assert sorted(codes) in ([0, 2], [0, 0]), said
        if 2 in codes:
            num_refused += 1
            assert f"{run}: {REFUSED}" in said[codes.index(2)]
            assert (run / "info.txt").read_text() == said[codes.index(0)], "no line of the other"
        else:  # the first one had ended
            assert any("training is finished" in text and "an epoch" not in text for text in said)
        assert figures(run) == figures(whole)
        assert len(rows(run, "start")) == 1
        assert_same_state(load(run / "checkpoint.pth"), load(whole / "checkpoint.pth"))
    assert num_refused > TRIES / 2, "most starts overlap"


@pytest.mark.slow
def test_after_a_kill_the_next_start_goes_on_at_once(whole, phantom, room):
    run = room / "run"
    command = training(phantom, run, **LONGER)
    process = start(command, room / "0.out")
    wait_for(run / "checkpoint.pth")
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert workers
    process.kill()
    process.wait()
    outcome = call(*command)
    with pytest.raises(ProcessLookupError):  # its workers went with it
        os.killpg(process.pid, 0)
    assert outcome.code == 0, outcome.err
    assert_same_state(load(run / "checkpoint.pth"), load(whole / "checkpoint.pth"))
    assert figures(run) == figures(whole)


@pytest.mark.slow
def test_all_ranks_of_a_refused_start_end_with_code_2_and_one_message(trained, phantom, room):
    run = copy_run(trained, room / "run")
    with lock_folder(run, "training"):
        before = snapshot(run)
        launch = ["scripts/lib/ranks.py", "--standalone", "--nproc_per_node=2", "main.py"]
        outcome = call_apart(*launch, *training(phantom, run, gradient_accumulation_steps=1))
        assert outcome.code == 2, outcome.err
        assert outcome.err.count(f"{run}: {REFUSED}{os.getpid()} on ") == 1
        assert snapshot(run) == before
