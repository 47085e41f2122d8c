"""A study as a job array on a real Slurm: its tasks end at the same time and lose nothing."""

import subprocess
import sys
import time

import pytest

pytest_plugins = ["tests.helpers.training_fixtures"]
pytestmark = pytest.mark.slurm


def study(repo, *arguments):
    """The smoke suite in the user's clone, one seed."""
    command = [sys.executable, "scripts/measure/study.py", "--suite", "smoke", "--seeds", "1", *arguments]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tasks_of_a_study_train_side_by_side_and_the_rebuild_finds_their_rows(submit, repo):
    assert "2 runs; sbatch scripts/smoke.sbatch" in study(repo, "--slurm", "scripts/smoke.sbatch")
    job = submit("smoke", "--cpus-per-task=2", arguments=[], tiny=False)
    runs, end = repo / "logs/study/smoke", time.monotonic() + 200
    while len(list(runs.glob("*/result.json"))) < 2:
        assert time.monotonic() < end, [path.read_text() for path in (repo / "logs").glob(f"*{job.number}_*.out")]
        time.sleep(0.2)
    assert "smoke.md: tables and plots of 2 runs" in study(repo, "--rebuild")
    assert len((runs / "study/smoke.jsonl").read_text().splitlines()) == 2
    assert study(repo, "--slurm", "scripts/smoke.sbatch") == "all runs are done; there is nothing to submit\n"
