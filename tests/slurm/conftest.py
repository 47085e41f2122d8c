"""A cluster for the session, a copy of the repository to submit from, and jobs that tests can ask about."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.training import CONFIG, ROOT, options
from tests.slurm.local_slurm import LONGEST_PATH, Cluster, ClusterError, why_not

PARTS = ("config", "datasets", "models", "scripts", "util", "engine.py", "main.py")
# What a test cannot ask of the product: steps that take their time in the first part of a job, and a crash.
HANDLE = """
import os, time
_after_step = after_step
def after_step(*args):
    if not os.environ.get("SLURM_RESTART_COUNT"):
        time.sleep(float(os.environ.get("TEST_SECONDS_PER_STEP", 0)))
    if "TEST_CRASH" in os.environ:
        raise RuntimeError("the model has crashed")
    _after_step(*args)
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@pytest.fixture(scope="session")
def cluster():
    """Two nodes with 4 pretended GPUs each."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm")) / "c"
    if len(str(folder)) > LONGEST_PATH:
        pytest.skip(f"the temporary folder has too long a path for Slurm's sockets: {folder}")
    cluster = Cluster(folder)
    try:
        cluster.up()
    except ClusterError as failure:
        shutil.rmtree(folder.parent)
        pytest.skip(f"Slurm is installed, but does not run here: {failure}")
    yield cluster
    cluster.down()
    shutil.rmtree(folder.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def repo(tmp_path_factory):
    """What the user has cloned, with a handle for tests in main.py."""
    folder = tmp_path_factory.mktemp("repo") / "the repo"
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("site.sh", "__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored, symlinks=True)
        else:
            shutil.copy(ROOT / part, folder / part)
    (folder / "logs").mkdir()
    text = (folder / "main.py").read_text()
    start = 'if __name__ == "__main__":\n    run_program(main)'
    assert text.count(start) == 1
    (folder / "main.py").write_text(text.replace(start, HANDLE + start))
    yield folder
    for path in folder.rglob("*.pth"):
        path.unlink()


@dataclass(frozen=True)
class Job:
    """A submitted job and what can be known of it."""

    number: int
    name: str
    cluster: Cluster
    repo: Path

    @property
    def folder(self):
        """Its run folder."""
        return self.repo / "logs" / f"{self.name}_{self.number}"

    @property
    def log(self):
        """What it has said so far."""
        path = self.repo / "logs" / f"{self.name}_{self.number}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def last_line(self):
        """The last thing that it has said."""
        return self.log.strip().splitlines()[-1]

    @property
    def rows(self):
        """Lines of its log.jsonl."""
        path = self.folder / "log.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def facts(self):
        """What Slurm knows of it."""
        text = self.cluster.call("scontrol", "show", "job", "--oneliner", str(self.number))
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def ended(self, seconds=200):
        """Slurm's facts when the job is over."""
        self.wait_until(lambda: self.facts().get("JobState") in ENDED, seconds)
        return self.facts()

    def wait_until(self, condition, seconds=120):
        """Wait for something to become true of the job."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.facts()}\n{self.log}"
            time.sleep(0.1)

    def outcome(self, seconds=200):
        """How it ended: state, exit code, and how often it was requeued."""
        facts = self.ended(seconds)
        return facts["JobState"], facts["ExitCode"], int(facts["Restarts"])


@pytest.fixture(scope="session")
def submit(cluster, repo, phantom):
    """A function that submits a script with the tiny training, from the repository, as the user would."""
    config = ["--config_file", str(CONFIG.relative_to(ROOT))]

    def submit(script, *sbatch, arguments=config, where=repo, env=(), tiny=True, **changes):
        surroundings = {
            **cluster.environment,
            "PATH": f"{Path(sys.executable).parent}:{cluster.environment['PATH']}",
            "VENV": "none",
            "DATA_PATH": str(phantom),
            "OMP_NUM_THREADS": "1",
            **dict(env),
        }
        size = ["--options", *options(**changes)] if tiny else []
        # Four cores of the eight that a node has: on a small machine not too many jobs should import PyTorch at once.
        command = ["sbatch", "--parsable", "--cpus-per-task=4", *sbatch, str(repo / f"scripts/{script}.sbatch")]
        told = subprocess.run(
            [*command, *arguments, *size], cwd=where, env=surroundings, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr
        name = script.removeprefix("train_")
        return Job(int(told.stdout), name, cluster, Path(where))

    os.umask(0o022)
    return submit
