"""scripts/measure/study.py as a user runs it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from scripts.measure.study import in_ranges
from tests.helpers.training import ROOT, call_apart
from util.study.runs import hold


def study(tmp_path, *more):
    """The arguments of the smoke suite, with all it writes below tmp_path."""
    where = ["--runs", tmp_path / "runs", "--data_path", tmp_path / "data", "--output_dir", tmp_path / "docs"]
    return ["scripts/measure/study.py", "--suite", "smoke", *where, *more]


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "docs/study/smoke.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A smoke study of one seed, done."""
    folder = tmp_path_factory.mktemp("study")
    return folder, call_apart(*study(folder, "--num_seeds", 1, "--workers", 2), timeout=300)


@pytest.mark.slow
def test_the_smoke_suite_trains_and_writes_rows_tables_and_figures(finished):
    folder, outcome = finished
    assert outcome.code == 0, outcome.out + outcome.err
    assert [(row["cell"], row["seed"], row["state"]) for row in rows(folder)] == [
        ("alpha25", 0, "done"),
        ("alpha75", 0, "done"),
    ]
    assert all(len(row["epochs"]) == 2 and "AP50" in row["metrics"] for row in rows(folder))
    told = outcome.out.splitlines()
    assert "smoke: 0 of 2 runs are done" in told
    assert sum(line.startswith(("[1/2] alpha", "[2/2] alpha")) for line in told) == 2
    text = (folder / "docs/smoke.md").read_text()
    assert "2 runs: 2 cells, 1 whole seeds of 2 planned" in text
    assert {path.name for path in (folder / "docs/images").iterdir()} == {
        "study_smoke_skill.png",
        "study_smoke_effects.png",
    }


@pytest.mark.slow
def test_what_is_done_is_not_run_again_and_lost_rows_come_back_from_the_folders(finished):
    folder, _ = finished
    before, document = rows(folder), (folder / "docs/smoke.md").read_text()
    again = call_apart(*study(folder, "--num_seeds", 1))
    assert (again.code, again.out.splitlines()[0]) == (0, "smoke: 2 of 2 runs are done")
    (folder / "docs/study/smoke.jsonl").unlink()
    (folder / "docs/smoke.md").write_text(document.replace("2 runs:", "99 runs:") + "\nwritten by hand\n")
    rebuilt = call_apart(*study(folder, "--rebuild"))
    assert rebuilt.code == 0, rebuilt.err
    assert rows(folder) == before
    assert (folder / "docs/smoke.md").read_text() == document + "\nwritten by hand\n"


@pytest.mark.slow
def test_a_job_array_names_what_is_missing_and_its_task_leaves_a_row_for_the_rebuild(finished):
    folder, _ = finished
    made = call_apart(*study(folder, "--slurm", folder / "job.sbatch"))
    assert made.code == 0, made.err
    text = (folder / "job.sbatch").read_text()
    assert "#SBATCH --array=2-3\n" in text
    assert subprocess.run(["bash", "-n", folder / "job.sbatch"], check=False).returncode == 0
    task = call_apart(*study(folder, "--num_seeds", 2, "--run", 3), timeout=300)
    assert (task.code, len(rows(folder))) == (0, 2), task.out + task.err
    assert call_apart(*study(folder, "--rebuild")).code == 0
    assert [(row["cell"], row["seed"]) for row in rows(folder)][2:] == [("alpha75", 1)]


@pytest.mark.slow
def test_a_study_that_is_stopped_lets_its_runs_save_and_goes_on(tmp_path):
    command = [sys.executable, *map(str, study(tmp_path, "--num_seeds", 1, "--workers", 1))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, end = tmp_path / "runs/smoke/alpha25-seed0/log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"train"' in log.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert "alpha25-seed0: stopped, goes on another time" in out
    assert "2 runs are left" in out
    assert (log.parent / "checkpoint.pth").exists()
    again = call_apart(*study(tmp_path, "--num_seeds", 1), timeout=300)
    assert again.code == 0, again.err
    first, second = rows(tmp_path)
    assert (first["seconds"], len(first["epochs"])) == (None, 2)
    assert second["seconds"] > 0


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path):
    folder = tmp_path / "runs/smoke/alpha25-seed0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pth").write_text("no checkpoint")
    outcome = call_apart(*study(tmp_path, "--num_seeds", 1), timeout=300)
    assert outcome.code == 1
    assert "failed: alpha25, seed 0, exit code 2" in outcome.err
    assert [(row["cell"], row["state"]) for row in rows(tmp_path)] == [("alpha25", "failed"), ("alpha75", "done")]
    assert "1 runs are left" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--suite", "beta"], "error: --suite beta: there is no such suite"),
        (["--suite", "smoke", "--run", "99"], "error: --run 99: the suite has the runs 0 to 3"),
    ],
)
def test_mistakes_are_one_line(arguments, phrase):
    outcome = call_apart("scripts/measure/study.py", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(phrase)
    assert outcome.err.count("\n") == 1


def test_a_run_has_one_process_at_a_time(tmp_path):
    first = hold(tmp_path / "a.lock")
    assert hold(tmp_path / "a.lock") is None
    first.close()
    assert hold(tmp_path / "a.lock") is not None


@pytest.mark.parametrize(
    ("indices", "text"), [([0], "0"), ([0, 1, 2, 5], "0-2,5"), ([1, 3, 4], "1,3-4"), ([7, 8], "7-8")]
)
def test_tasks_are_named_as_slurm_reads_them(indices, text):
    assert in_ranges(indices) == text
