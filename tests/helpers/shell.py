"""The scripts, stand-ins for Python and Slurm, and how tests run the one with the other."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    [*ROOT.glob("scripts/*.sh"), *ROOT.glob("scripts/lib/*.sh"), *ROOT.glob("scripts/*.sbatch"), ROOT / ".ci/run"]
)
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
# Stands for `python scripts/lib/ranks.py ... main.py ...`: does what $DOES says; $PPID is the shell of the job.
FAKE_RANKS = """#!/usr/bin/env bash
run=$(sed 's/.* --output_dir //; s/ .*//' <<<"$*")
eval "${DOES:-}"
"""
WAIT_FOR_STOP = "for _ in {1..200}; do [[ -e $run/stop ]] && break; sleep 0.05; done; [[ -e $run/stop ]] || exit 8; "
WARNED = "kill -USR1 $PPID; " + WAIT_FOR_STOP
# Slurm ends the job that it requeues.
FAKE_SCONTROL = """#!/usr/bin/env bash
echo "$*" >> scontrol_calls
case $1 in
    show) printf 'node5\\nnode6\\n' ;;
    requeue) [[ -z ${REQUEUE_FAILS:-} ]] || exit 1; kill -TERM $PPID; sleep 1 ;;
esac
"""
FAKE_SRUN = """#!/usr/bin/env bash
echo "$*" >> srun_calls
while [[ $1 != bash ]]; do shift; done
exec "$@"
"""


def run(*command, cwd, **environment):
    """The finished process; nothing of the surrounding job or environment reaches it."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=60
    )


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def submit(repo, job, *arguments, **environment):
    """What sbatch does: run a copy of the script, elsewhere, its output into a file. All that it said is in stdout."""
    spool = repo.parent / "spool"
    spool.mkdir(exist_ok=True)
    shutil.copy(repo / f"scripts/{job}.sbatch", spool / "slurm_script")
    slurm = {"SLURM_SUBMIT_DIR": str(repo), "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": job, "DATA_PATH": "data"}
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    log = spool / "job.out"
    with log.open("w") as out:
        finished = subprocess.run(
            ["bash", str(spool / "slurm_script"), *arguments],
            cwd=spool,
            env={**kept, **slurm, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
    return subprocess.CompletedProcess(finished.args, finished.returncode, log.read_text())


def last_line(finished):
    return finished.stdout.strip().splitlines()[-1]


def requeues(repo):
    calls = repo / "scontrol_calls"
    return [line for line in calls.read_text().splitlines() if "requeue" in line] if calls.exists() else []
