"""The scripts without Slurm in them: quick start and tests, run in a copy of the repository; the style of all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shell import FAKE_PYTHON, ROOT, SCRIPTS, run

pytest_plugins = ["tests.helpers.shell_fixtures"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_valid_bash(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


def test_the_launcher_of_the_job_scripts_finds_the_repository():
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "scripts/lib/ranks.py", "--help"]
    finished = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout[:6]) == (0, "usage:"), finished.stderr


def test_shellcheck_finds_nothing_in_any_script():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not shutil.which("shellcheck", path=path):
        assert "CI" not in os.environ, "CI needs shellcheck: requirements-extra.txt"
        pytest.skip("no shellcheck: pip install -r requirements-extra.txt")
    scripts = [str(script.relative_to(ROOT)) for script in SCRIPTS]
    done = subprocess.run(
        ["shellcheck", "-x", *scripts], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


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
    finished = run("bash", "-c", "source scripts/lib/venv.sh; require_python_310 python3 && echo fine", cwd=repo)
    assert finished.stdout == "fine\n", finished.stderr


def test_a_run_of_another_seed_is_not_gone_on_with(repo):
    (repo / "logs/quickstart/config.py").write_text("seed = 0\n")
    finished = run("bash", "scripts/quickstart.sh", cwd=repo, SEED="1", PYTHON="false")
    assert finished.returncode == 2
    assert "holds a run of another seed than 1" in finished.stderr
