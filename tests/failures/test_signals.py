"""A run that is asked to stop saves, says so and goes on later as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import main
from tests.helpers.training import ONE_EPOCH, ROOT, assert_same_state, call, figures, load, rows, training
from util.distributed.exit_codes import REQUEUE
from util.distributed.preemption import StopRequest
from util.metrics.report import evaluation

pytest_plugins = ["tests.helpers.training_fixtures"]

LONG = {"epochs": 40, "lr_drop": [], "log_every": 1, "num_workers": 1, "eval_every": 40}
TWO_RANKS = {**LONG, "gradient_accumulation_steps": 1}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture
def stop(monkeypatch):
    """The request that main looks at; it does not listen, so this process keeps its handlers."""
    request = StopRequest()
    monkeypatch.setattr(main, "STOP", request)
    return request


def test_a_run_asked_to_stop_saves_at_the_next_step_and_goes_on(trained, phantom, room, stop, monkeypatch):
    command, follow = training(phantom, room / "run"), main.follow

    def ask(run, *rest):
        if run.state.step == 3:  # after the plan of step 4, so it is heard by the plan of step 5
            stop.signal = signal.SIGUSR1
        follow(run, *rest)

    monkeypatch.setattr(main, "follow", ask)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (REQUEUE, "")
    assert outcome.out.endswith(
        "asked to stop (SIGUSR1): stopped in epoch 1 after step 5; the same command goes on from there. Exit code 75\n"
    )
    assert load(room / "run/checkpoint.pth")["step"] == 5
    stop.signal = None
    monkeypatch.setattr(main, "follow", follow)
    assert call(*command).code == 0
    assert_same_state(load(room / "run/checkpoint.pth"), load(trained / "checkpoint.pth"))
    assert figures(room / "run") == figures(trained)


@pytest.mark.slow
@pytest.mark.usefixtures("stop")
def test_a_file_asks_too_and_is_gone_when_the_run_has_stopped(trained, phantom, room, monkeypatch):
    command, follow = training(phantom, room / "run"), main.follow
    monkeypatch.setattr("util.distributed.preemption.LOOK_EVERY", 0.0)

    def ask(run, *rest):
        if run.state.step == 1:
            (room / "run/stop").touch()
        follow(run, *rest)

    monkeypatch.setattr(main, "follow", ask)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (REQUEUE, "")
    assert f"asked to stop ({room / 'run/stop'}): stopped in epoch 0 after step 3" in outcome.out
    assert not (room / "run/stop").exists()
    monkeypatch.setattr(main, "STOP", StopRequest())
    monkeypatch.setattr(main, "follow", follow)
    assert call(*command).code == 0
    assert figures(room / "run") == figures(trained)


def test_a_run_asked_to_stop_while_it_is_judged_judges_later(trained, phantom, room, stop, monkeypatch):
    command, predict = training(phantom, room / "run", save_checkpoint_interval=1), main.predict

    def ask(*args, **more):
        stop.signal = signal.SIGTERM
        return predict(*args, **more)

    monkeypatch.setattr(main, "predict", ask)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (REQUEUE, "")
    assert load(room / "run/checkpoint.pth")["judged"] == 0
    assert rows(room / "run", "eval") == []
    assert not (room / "run/checkpoint0001.pth").exists()
    stop.signal = None
    monkeypatch.setattr(main, "predict", predict)
    assert call(*command).code == 0
    assert figures(room / "run") == figures(trained)
    assert [load(room / f"run/checkpoint000{epoch}.pth")["epoch"] for epoch in (1, 2)] == [1, 2]


def test_a_file_that_asks_too_late_is_gone_when_the_run_is_finished(phantom, room, monkeypatch):
    save_report = evaluation.save_report

    def ask(*args):
        save_report(*args)
        (room / "run/stop").touch()

    monkeypatch.setattr(evaluation, "save_report", ask)
    assert call(*training(phantom, room / "run", **ONE_EPOCH)).code == 0
    assert not (room / "run/stop").exists()


def test_an_evaluation_asked_to_stop_says_that_it_starts_anew(trained, phantom, room, stop):
    stop.signal = signal.SIGTERM
    outcome = call("--eval", "--resume", trained / "best.pth", "--data_path", phantom, "--output_dir", room / "eval")
    assert outcome.code == REQUEUE
    assert "stopped while evaluating; the same command evaluates anew. Exit code 75" in outcome.out


def begin(command, *, shell=False, **env):
    """Start a command as a process group of its own, which heeds Ctrl-C although the tests may not."""
    return subprocess.Popen(
        [*(["bash"] if shell else [sys.executable]), *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **{k: str(v) for k, v in env.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end(process, timeout=90):
    """Its exit code and what it said; nothing of its group is left."""
    try:
        said = process.communicate(timeout=timeout)[0]
    finally:
        with suppress(ProcessLookupError):  # as it should be
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def steps_done(folder):
    """Steps in the log so far."""
    return len(rows(folder, "train")) if (folder / "log.jsonl").exists() else 0


def wait_for_steps(folder, process, num, timeout=90):
    """Until the log has `num` steps; how many it has."""
    until = time.monotonic() + timeout
    while steps_done(folder) < num:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no steps"
        time.sleep(0.01)
    return steps_done(folder)


def ranks_of(agent):
    """The processes that torchrun has started, by their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = next(line.split()[1] for line in path.read_text().splitlines() if line.startswith("PPid:"))
            is_rank = int(parent) == agent and b"main.py" in (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(path.parent.name)] if is_rank else []
    return found


@pytest.mark.slow
def test_a_signal_while_torch_is_imported_is_heard(phantom, room):
    process = begin(["main.py", *training(phantom, room / "run", **LONG)])
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    code, said = end(process)
    assert code == REQUEUE, said
    assert "asked to stop (SIGUSR1)" in said
    assert load(room / "run/checkpoint.pth")["step"] == 1


@pytest.mark.slow
def test_sigusr1_to_the_ranks_under_torchrun(phantom, room):
    told = room / "code"
    process = begin([*TORCHRUN, "main.py", *training(phantom, room / "run", **TWO_RANKS)], EXIT_CODE_FILE=told)
    wait_for_steps(room / "run", process, 2)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    before = steps_done(room / "run")
    os.kill(ranks[1], signal.SIGUSR1)  # one is enough: the ranks agree
    code, said = end(process)
    assert code == 1, "torchrun's own code"
    assert "exitcode  : 75" in said
    assert told.read_text() == "75\n"
    kept = load(room / "run/checkpoint.pth")
    assert kept["step"] == len(rows(room / "run", "train")) <= before + 3  # the row under way, and two windows
    assert (
        call(
            *training(phantom, room / "run", **{**LONG, **ONE_EPOCH, "epochs": 1 + kept["epoch"], "eval_every": 1})
        ).code
        == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_whole_job_leads_to_the_documented_code(phantom, room, number):
    """torchrun, its ranks and their loader processes all get it; torchrun passes a SIGTERM on once more."""
    job = room / "job.sh"
    job.write_text(f'source {ROOT}/scripts/common.sh\nlaunch "$@"\n')
    where = {"DATA_PATH": phantom, "OUTPUT_DIR": room / "run", "GPUS": 2, "VENV": "none"}
    command = training(phantom, room / "run", **TWO_RANKS)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = begin([job, *command], shell=True, PATH=path, **where)
    before = wait_for_steps(room / "run", process, 2)
    # What Slurm does to all processes of a job step, whatever process group they are in.
    agent = agent_of(process.pid)
    for target in [agent, *ranks_of(agent), *(c for rank in ranks_of(agent) for c in children(rank))]:
        os.kill(target, number)
    if number == signal.SIGUSR1:
        process.send_signal(number)
    code, said = end(process)
    assert code == REQUEUE, said
    assert f"asked to stop ({number.name})" in said
    kept = load(room / "run/checkpoint.pth")
    assert kept["step"] == len(rows(room / "run", "train")) <= before + 4


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, REQUEUE)])
def test_a_local_run_heeds_ctrl_c_and_kill_and_leaves_nothing_behind(phantom, room, number, expected):
    """Ctrl-C reaches the group of the shell; the ranks hear it once, and their message is the last but one."""
    where = {"DATA_PATH": phantom, "OUTPUT_DIR": room / "run", "GPUS": 2, "VENV": "none"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = training(phantom, room / "run", **TWO_RANKS)
    process = begin([ROOT / "scripts/train_local.sh", *command], shell=True, PATH=path, **where)
    wait_for_steps(room / "run", process, 2)
    agent = agent_of(process.pid)
    family = [agent, *ranks_of(agent)]
    assert len(family) == 3
    asked = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    code, said = end(process)
    assert (code, time.monotonic() - asked < 15) == (expected, True), said
    assert "Traceback" not in said
    assert said.rstrip().endswith(": the same arguments"), said
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def agent_of(shell):
    """What the shell of a job has started: the parent of the ranks."""
    [agent] = [c for c in children(shell) if b"ranks.py" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return agent


def children(pid):
    """Child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


SLOW_STEP = """
import sys, time
from util.distributed.preemption import STOP
STOP.listen()
import main
follow = main.follow
def slow(run, *rest):
    follow(run, *rest)
    if run.state.step == 2:
        time.sleep(60)
main.follow = slow
main.run_program(main.main)
"""


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_the_checkpoint_is_whole(phantom, room):
    command = training(phantom, room / "run", **LONG, checkpoint_every_minutes=1e-9)
    process = begin(["-c", SLOW_STEP, *command], PYTHONPATH=ROOT)
    wait_for_steps(room / "run", process, 2)
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    code, said = end(process)
    assert (code, time.monotonic() - asked < 5) == (128 + signal.SIGUSR1, True), said
    assert load(room / "run/checkpoint.pth")["step"] == 2
