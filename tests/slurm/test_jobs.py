"""The job scripts on a real Slurm: what a user sees who submits, waits, cancels, or makes a mistake."""

import json
import re
import socket
import threading
import time

import pytest

from tests.helpers.training import assert_same_state, figures, load

pytest_plugins = ["tests.helpers.training_fixtures"]
pytestmark = pytest.mark.slurm

# Steps of a second in the first part of a job make sure that it is caught in the middle.
CAUGHT = {"TEST_SECONDS_PER_STEP": "1"}
ONE = {"epochs": 12, "lr_drop": [], "eval_every": 12}  # 36 steps
TWO = {"epochs": 10, "lr_drop": [], "eval_every": 10, "gradient_accumulation_steps": 1}  # 30 steps on 2 ranks
SHORT = {"epochs": 1, "lr_drop": []}


def warn(job):
    """What Slurm does before the time limit, by hand."""
    job.cluster.call("scancel", "--signal=USR1", "--batch", str(job.number))


def cancel(job):
    """What the user does."""
    job.cluster.call("scancel", str(job.number))


def give_time(job):
    """Once is enough: the next part of the job may run to its end."""
    if job.facts()["Restarts"] == "1":
        job.cluster.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
        return True
    return False


def disturb_when_under_way(jobs):
    """Wait for the third step of the jobs that are to be disturbed; lengthen the limit that was too short."""
    waiting = {"cancelled": cancel, "warned": warn, "nodes": warn}
    end, has_time = time.monotonic() + 200, False
    while (waiting or not has_time) and time.monotonic() < end:
        for name in [name for name in waiting if jobs[name].rows >= 3]:
            waiting.pop(name)(jobs[name])
        has_time = has_time or give_time(jobs["too short"])
        time.sleep(0.2)


@pytest.fixture(scope="module")
def jobs(submit, tmp_path_factory):
    """All jobs, submitted at once and in this order; those to be disturbed have been."""
    disk = tmp_path_factory.mktemp("disk")
    staged = {"STAGE_DATA": "1", "TMPDIR": str(disk), **CAUGHT}
    one, two, many = "train_tbx11k_1gpu", "train_tbx11k", "train_tbx11k_multinode"
    jobs = {
        "too short": submit(one, "--time=1", "--signal=B:USR1@30", env=CAUGHT, **ONE),
        "cancelled": submit(one, env=CAUGHT, **ONE),
        "warned": submit(two, "--nodelist=node1", env=CAUGHT, **TWO),
        "beside": submit(two, "--nodelist=node1", **TWO),  # the same node as the one that is warned
        "wrong data": submit(one, env={"DATA_PATH": "nowhere/TBX11K"}),
        "no config": submit(two, arguments=["--config_file", "config/none.py"]),
        "crash": submit(one, env={"TEST_CRASH": "1"}, **SHORT),
        "long": submit(one, **ONE),
        "nodes": submit(many, env=staged, **TWO),
        "seeds": submit(one, "--array=0-2", "--output=logs/%x_%A_%a.out", **SHORT),
    }
    best, after = jobs["long"].folder / "best.pth", f"--dependency=afterok:{jobs['long'].number}"
    jobs["evaluation"] = submit("eval_tbx11k", after, arguments=["--resume", str(best)], tiny=False)
    threading.Thread(target=disturb_when_under_way, args=[jobs], daemon=True).start()
    return jobs


def test_a_job_on_one_gpu_trains_to_the_end_and_tells_its_story(jobs):
    job = jobs["long"]
    assert job.outcome() == ("COMPLETED", "0:0", 0)
    for name in ("checkpoint.pth", "best.pth", "config.py", "log.jsonl", "report.json", "info.txt"):
        assert (job.folder / name).is_file(), name
    assert not (job.folder / "stop").exists()
    head = job.log.splitlines()[:6]
    assert head[0].startswith(f"job {job.number} (tbx11k_1gpu) on node")
    assert head[1] == "allocation: 1 node(s), on each 1 GPU(s), 4 CPUs, 24G memory; time limit 2-00:00:00"
    assert head[2].startswith("commit: ")
    assert head[3].startswith(
        "command: python scripts/lib/ranks.py --standalone --nproc_per_node 1 main.py --data_path "
    )
    assert head[4] == f"run folder: logs/tbx11k_1gpu_{job.number}"
    assert head[5] == f"follow: tail -f logs/tbx11k_1gpu_{job.number}.out"
    assert "images per step = 2 per rank x 2 accumulation x 1 ranks = 4\n" in job.log
    assert len(re.findall(r"^Epoch: \[\d+\]  \[\d/3\]", job.log, re.MULTILINE)) == 36
    assert job.last_line.startswith("training is finished: 12 epochs, 36 optimizer steps")


def test_nothing_of_the_environment_is_told(jobs):
    jobs["long"].ended()
    assert "OMP_NUM_THREADS" not in jobs["long"].log
    assert "SLURM_CONF" not in jobs["long"].log


def test_a_time_limit_that_is_too_short_changes_nothing(jobs):
    """The limit is a minute and the signal Slurm's own: the job saves, requeues itself and ends bit-equal."""
    job, long = jobs["too short"], jobs["long"]
    state, code, restarts = job.outcome()
    assert (state, code, restarts > 0) == ("COMPLETED", "0:0", True), job.log
    assert job.log.count("everything is saved; requeueing job") == restarts
    assert job.log.count("resuming from this run's own") == restarts
    long.ended()
    assert_same_state(load(job.folder / "checkpoint.pth"), load(long.folder / "checkpoint.pth"))
    assert figures(job.folder) == figures(long.folder)


def test_two_jobs_side_by_side_do_not_collide_and_one_may_be_warned(jobs):
    """A job that is warned and requeued ends like the one that ran at the same time undisturbed."""
    warned, beside = jobs["warned"], jobs["beside"]
    assert beside.outcome() == ("COMPLETED", "0:0", 0)
    assert warned.outcome() == ("COMPLETED", "0:0", 1)
    assert figures(warned.folder) == figures(beside.folder)
    assert_same_state(load(warned.folder / "checkpoint.pth"), load(beside.folder / "checkpoint.pth"))
    assert "x 2 ranks = 4\n" in beside.log


def test_two_nodes_give_the_losses_of_two_gpus_of_one_node(jobs):
    job, one_node = jobs["nodes"], jobs["beside"]
    if not job.cluster.is_isolated:
        try:
            socket.getaddrinfo("node1", None)
        except OSError:
            pytest.skip("the nodes share this machine's network, and node1 does not resolve")
    assert job.outcome() == ("COMPLETED", "0:0", 1), job.log
    assert "on node[1-2]" in job.log
    one_node.ended()
    assert figures(job.folder) == figures(one_node.folder)


def test_the_data_of_two_nodes_was_copied_once_to_each(jobs):
    """The pretended nodes share one disk: the first copies, the other one waits and finds the copy."""
    log = jobs["nodes"].log
    assert len(re.findall(r"^data: copied to ", log, re.MULTILINE)) == 1
    assert len(re.findall(r"^data: .* is up to date ", log, re.MULTILINE)) == 3  # the other node, and after the requeue


def test_scancel_leaves_a_whole_checkpoint_and_does_not_requeue(jobs):
    job = jobs["cancelled"]
    facts = job.ended()
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    kept = load(job.folder / "checkpoint.pth")
    assert kept["step"] >= 3
    job.wait_until(lambda: "asked to stop" in job.log, 15)


@pytest.mark.parametrize(
    ("name", "code", "mend"),
    [
        ("wrong data", 2, "nowhere/TBX11K: there is no such folder; TBX11K needs annotations/json/NAME.json"),
        ("no config", 2, "config file not found: config/none.py; the recipes are in config/DINO/"),
        ("crash", 1, "RuntimeError: the model has crashed (traceback above). Once fixed, the run resumes from "),
    ],
)
def test_a_failing_job_is_failed_and_says_why_in_its_last_line(jobs, name, code, mend):
    job = jobs[name]
    assert job.outcome() == ("FAILED", f"{code}:0", 0)
    assert job.facts()["RunTime"] < "00:01:00"
    assert job.last_line.startswith(f"job {job.number}: failed with exit code {code}: {mend}")
    assert "ChildFailedError" not in job.log
    assert (name == "crash") == ("Traceback" in job.log)
    assert (name == "crash") == job.folder.exists()


def test_an_array_of_three_seeds_gives_three_runs(jobs):
    first = jobs["seeds"]
    runs = [first.repo / f"logs/tbx11k_1gpu_{first.number}_{task}" for task in range(3)]
    first.wait_until(lambda: all((run / "report.json").exists() for run in runs), 200)
    assert [re.search(r"^seed = (\d+)$", (run / "config.py").read_text(), re.M)[1] for run in runs] == ["0", "1", "2"]
    losses = {json.dumps(figures(run, "train")) for run in runs}
    assert len(losses) == 3
    assert "task 2 of array" in (first.repo / f"logs/tbx11k_1gpu_{first.number}_2.out").read_text()


def test_after_training_is_finished_a_requeue_does_nothing_and_says_so(jobs):
    job = jobs["beside"]
    job.ended()
    before = figures(job.folder)
    job.cluster.call("scontrol", "requeue", str(job.number))
    job.wait_until(lambda: job.facts()["Restarts"] == "1")
    assert job.outcome() == ("COMPLETED", "0:0", 1)
    assert job.log.count("training is finished") == 2
    assert "requeued 1 times" in job.log
    assert figures(job.folder) == before


def test_ranks_follow_from_whatever_way_gpus_are_asked_for(submit):
    """The scripts say --gpus-per-node; the command line has the last word."""
    ways = {
        "--gpus-per-node=3": 3,
        "--gres=gpu:4": 4,
        "--gpus=2 --gpus-per-node=2": 2,
        "--nodes=1": 1,
        "--gpus-per-node=0": 0,
    }
    jobs = [(submit("train_tbx11k_1gpu", *way.split(), env={"DRY_RUN": "1"}), gpus) for way, gpus in ways.items()]
    for job, gpus in jobs:
        assert job.outcome() == ("COMPLETED", "0:0", 0)
        assert f"on each {gpus} GPU(s), 4 CPUs" in job.log
        assert f"--nproc_per_node {max(1, gpus)} " in job.log
        assert ("--device cpu" in job.log) == (gpus == 0)


def test_submitting_from_another_folder_says_what_to_do(submit, repo):
    inside = submit("train_tbx11k_1gpu", where=repo / "config", tiny=False, env={"DATA_PATH": "d"})
    job = submit("train_tbx11k_1gpu", where=repo / "scripts", tiny=False)
    assert job.outcome() == ("FAILED", "2:0", 0)
    assert job.log == f"error: submit from the repository root (no scripts/common.sh in {repo / 'scripts'})\n"
    assert inside.ended()["Reason"] == "JobLaunchFailure", "there is no folder logs: Slurm has nowhere to say anything"


def test_evaluation_is_a_job_of_its_own(jobs):
    job = jobs["evaluation"]
    assert job.outcome() == ("COMPLETED", "0:0", 0)
    assert json.loads((job.folder / "report.json").read_text())
