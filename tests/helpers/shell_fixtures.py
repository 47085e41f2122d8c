"""A copy of the scripts to run them in, for modules with `pytest_plugins = ["tests.helpers.shell_fixtures"]`."""

import shutil

import pytest

from tests.helpers.shell import FAKE_PYTHON, FAKE_RANKS, FAKE_SCONTROL, FAKE_SRUN, ROOT, SCRIPTS, put


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


@pytest.fixture
def ready(repo):
    """The copy of the scripts with an environment, Slurm's commands and a data folder."""
    put(repo / ".venv/bin/python", FAKE_RANKS)
    put(repo / ".venv/bin/scontrol", FAKE_SCONTROL)
    put(repo / ".venv/bin/srun", FAKE_SRUN)
    put(repo / ".venv/bin/squeue", "#!/usr/bin/env bash\necho 1:00:00 24G\n")
    put(repo / ".venv/bin/activate", 'PATH="$PWD/.venv/bin:$PATH"\n')
    put(repo / "data/imgs/a.png", "a picture")
    put(repo / "data/lists/train.txt", "a.png\n")
    return repo
