"""scripts/prepare_tbx11k.py within this process, and a folder for it; a pytest plugin."""

from functools import partial

import pytest

from datasets.phantom.write import make_phantom
from tests.helpers.training import load_script
from util.distributed.exit_codes import run_to_exit_code

PREPARE = load_script("prepare_tbx11k")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    root = tmp_path_factory.mktemp("official") / "TBX11K"
    make_phantom(root, train=23, val=12, seed=3, positive_fraction=0.3, size=64)
    (root / "phantom.json").unlink()
    return root


@pytest.fixture
def ask(capsys):
    """Run the script: exit code, standard output, standard error."""

    def run(*arguments):
        code = run_to_exit_code(partial(PREPARE.main, [str(argument) for argument in arguments]))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
