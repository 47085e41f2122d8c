"""The shell scripts, run in a copy of the repository with stand-ins for Python and Slurm."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("scripts/*.sbatch"), ROOT / ".ci/run"])
JOBS = {
    "train_tbx11k": (2, ["--config_file", "config/DINO/DINO_4scale_tbx11k.py"]),
    "train_tbx11k_1gpu": (1, ["--config_file", "config/DINO/DINO_4scale_tbx11k_1gpu.py"]),
    "eval_tbx11k": (1, ["--eval"]),
}
# Writes down every call; makes a virtual environment out of itself; fails where FAIL_AT stands in the arguments.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
    *"(3, 10)"*) echo "${FAKE_VERSION:-3.12} ${IS_NEW_ENOUGH:-1}" ;;
    "-m venv"*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip" ;;
    *report.json*) echo 0.812 ;;
    *) [[ -z ${FAIL_AT:-} || $* != *"$FAIL_AT"* ]] || exit 7 ;;
esac
"""


@pytest.fixture
def repo(tmp_path):
    """The scripts in a folder with a space in its name."""
    folder = tmp_path / "the repo"
    for script in SCRIPTS:
        copy = folder / script.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if script.name != "site.sh":
            shutil.copy(script, copy)
    for name in ("main.py", "requirements.txt", "requirements-extra.txt"):
        (folder / name).write_text(f"the {name}\n")
    (folder / "logs/quickstart").mkdir(parents=True)
    (folder / "logs/quickstart/info.txt").write_text(
        "old\nevaluation after 1 epochs\nevaluation after 2 epochs\nTABLE\n"
    )
    fake = folder / "fake_python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return folder


def run(*command, cwd, **environment):
    """The finished process; nothing of the surrounding job or environment reaches it."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=60
    )


def submit(repo, job, *arguments, **environment):
    """What sbatch does: run a copy of the script, elsewhere."""
    spool = repo.parent / "spool"
    spool.mkdir()
    shutil.copy(repo / f"scripts/{job}.sbatch", spool / "slurm_script")
    slurm = {"SLURM_SUBMIT_DIR": str(repo), "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": job, **environment}
    return run("bash", spool / "slurm_script", *arguments, cwd=spool, **slurm)


def command_of(finished):
    """The words of the printed command."""
    assert finished.returncode == 0, finished.stderr
    return shlex.split(finished.stdout.strip().splitlines()[-1].partition(": ")[2])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_valid_bash(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


@pytest.mark.parametrize("job", JOBS)
def test_a_job_starts_main_on_every_gpu_of_its_allocation(repo, job):
    own = JOBS[job][1]
    finished = submit(
        repo, job, "--options", "amp=bf16", DRY_RUN="1", DATA_PATH="my data/TBX11K", SLURM_GPUS_ON_NODE="3"
    )
    place = ["--data_path", "my data/TBX11K", "--output_dir", f"logs/{job}_77"]
    start = ["torchrun", "--standalone", "--nproc_per_node", "3", "main.py"]
    assert command_of(finished) == [*start, *place, *own, "--options", "amp=bf16"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_asks_for_the_gpus_its_config_is_made_for(job):
    text = (ROOT / f"scripts/{job}.sbatch").read_text()
    assert f"#SBATCH --gres=gpu:{JOBS[job][0]}\n" in text
    assert "#SBATCH --output=logs/%x_%j.out\n" in text


def test_a_named_run_is_gone_on_with(repo):
    command = command_of(submit(repo, "train_tbx11k", DRY_RUN="1", DATA_PATH="d", RUN_NAME="tbx11k_5"))
    assert command[command.index("--output_dir") + 1] == "logs/tbx11k_5"


def test_outside_slurm_the_run_bears_the_name_of_the_script(repo):
    finished = run("bash", "scripts/train_tbx11k_1gpu.sbatch", cwd=repo, DRY_RUN="1", DATA_PATH="d")
    command = command_of(finished)
    assert command[command.index("--output_dir") + 1] == "logs/train_tbx11k_1gpu"
    assert command[command.index("--nproc_per_node") + 1] == "1"


def test_site_settings_reach_the_job_although_they_read_unset_variables(repo):
    (repo / "scripts/site.sh").write_text('old=$NOT_SET_ANYWHERE\nDATA_PATH="/site/TBX11K"\n')
    command = command_of(submit(repo, "train_tbx11k", DRY_RUN="1"))
    assert command[command.index("--data_path") + 1] == "/site/TBX11K"


def test_a_failing_line_of_the_site_settings_ends_the_job(repo):
    (repo / "scripts/site.sh").write_text('false\nDATA_PATH="/site/TBX11K"\n')
    finished = submit(repo, "train_tbx11k", DRY_RUN="1")
    assert finished.returncode != 0
    assert "torchrun" not in finished.stdout


def test_a_job_without_a_data_folder_says_what_to_set(repo):
    finished = submit(repo, "train_tbx11k", DRY_RUN="1")
    assert finished.returncode != 0
    assert "set DATA_PATH to the TBX11K folder" in finished.stderr


@pytest.mark.parametrize("job", JOBS)
def test_a_job_submitted_from_another_folder_says_so(repo, tmp_path, job):
    finished = submit(repo, job, DATA_PATH="d", SLURM_SUBMIT_DIR=str(tmp_path))
    assert finished.returncode == 2
    assert f"submit from the repository root (no scripts/common.sh in {tmp_path})" in finished.stderr


def test_a_job_ends_with_the_exit_code_of_its_training(repo):
    torchrun = repo / ".venv/bin/torchrun"
    torchrun.parent.mkdir(parents=True)
    torchrun.write_text("#!/usr/bin/env bash\nexit 9\n")
    torchrun.chmod(0o755)
    (repo / ".venv/bin/activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    assert submit(repo, "train_tbx11k", DATA_PATH="d").returncode == 9


def quickstart(repo, **environment):
    """Run from elsewhere, with stand-ins. Returns the process and the calls of Python that are not version checks."""
    calls = repo / "calls"
    calls.unlink(missing_ok=True)
    finished = run(
        "bash", repo / "scripts/quickstart.sh", cwd=repo.parent, PYTHON=str(repo / "fake_python"), CALLS=str(calls),
        **environment,
    )  # fmt: skip
    return finished, [line for line in calls.read_text().splitlines() if "(3, 10)" not in line]


def test_the_quick_start_renders_trains_evaluates_draws_and_says_the_result(repo):
    finished, calls = quickstart(repo, SEED="3")
    assert finished.returncode == 0, finished.stderr
    steps = ["-m venv", "-m pip install", "scripts/make_phantom.py", "main.py --config_file", "main.py --eval"]
    steps += ["scripts/plot_run.py", "scripts/show_detections.py", "-c import json"]
    assert [call.startswith(step) for call, step in zip(calls, steps, strict=True)] == [True] * len(steps)
    assert calls[3].endswith("--output_dir logs/quickstart --options seed=3")
    last = finished.stdout.splitlines()[-1]
    assert last == "class-agnostic AP50 on held-out phantom images: 0.812 (logs/quickstart/report.json)"
    result = finished.stdout.split("== result\n")[1]
    assert result.startswith("evaluation after 2 epochs\nTABLE\n")


def test_what_is_installed_is_not_installed_again_until_the_requirements_change(repo):
    quickstart(repo)
    _, calls = quickstart(repo)
    assert not [call for call in calls if "pip install" in call or "venv" in call]
    (repo / "requirements.txt").write_text("another\n")
    _, calls = quickstart(repo)
    assert [call for call in calls if "pip install" in call]


def test_a_broken_environment_is_made_again_and_installed_again(repo):
    quickstart(repo)
    (repo / ".venv/bin/pip").unlink()
    _, calls = quickstart(repo)
    assert calls[0] == "-m venv .venv"
    assert "pip install" in calls[1]


@pytest.mark.parametrize("step", ["venv", "pip install", "make_phantom", "--config_file", "--eval", "show_detections"])
def test_a_failing_step_ends_the_quick_start_with_its_exit_code(repo, step):
    if step == "venv":
        (repo / "fake_python").write_text(FAKE_PYTHON.replace("mkdir -p", "exit 7; mkdir -p"))
    finished, calls = quickstart(repo, FAIL_AT=step)
    assert finished.returncode == 7
    assert step in calls[-1]
    assert "error:" in finished.stderr


def test_an_old_python_is_refused(repo):
    finished, calls = quickstart(repo, FAKE_VERSION="3.8", IS_NEW_ENOUGH="0")
    assert finished.returncode == 2
    assert "is Python 3.8, but 3.10 or newer is needed" in finished.stderr
    assert calls == []


def test_the_version_check_agrees_with_this_python(repo):
    finished = run("bash", "-c", "source scripts/venv.sh; require_python_310 python3 && echo fine", cwd=repo)
    assert finished.stdout == "fine\n", finished.stderr


def test_a_run_of_another_seed_is_not_gone_on_with(repo):
    (repo / "logs/quickstart/config.py").write_text("seed = 0\n")
    finished = run("bash", "scripts/quickstart.sh", cwd=repo, SEED="1", PYTHON="false")
    assert finished.returncode == 2
    assert "holds a run of another seed than 1" in finished.stderr
