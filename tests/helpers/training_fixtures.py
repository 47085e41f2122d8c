"""A tiny phantom and a finished tiny training, for modules that name this in `pytest_plugins`."""

import shutil
from pathlib import Path

import pytest

from datasets.phantom import make_phantom
from tests.helpers.training import TRAIN, VAL, call, training


@pytest.fixture
def room(tmp_path):
    """An empty folder, emptied again: checkpoints are large, and pytest keeps the folders of three sessions."""
    yield tmp_path
    for path in tmp_path.rglob("*.pth"):
        path.unlink()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A synthetic TBX11K of a few images; tests read it only."""
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=TRAIN, val=VAL, seed=0, positive_fraction=0.5, size=128)
    return folder


@pytest.fixture
def data(phantom, tmp_path):
    """A copy of the phantom that a test may spoil."""
    return Path(shutil.copytree(phantom, tmp_path / "data"))


@pytest.fixture(scope="session")
def trained(phantom, tmp_path_factory):
    """The folder of a finished training of two epochs; tests read it only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    outcome = call(*training(phantom, folder))
    assert outcome.code == 0, outcome.err
    (folder / "console.txt").write_text(outcome.out)
    yield folder
    shutil.rmtree(folder)
