"""60 steps of the tiny recipe: two accumulation steps equal two ranks, and loader processes change nothing.

The figures printed with `-s` stand in docs/accumulation.md.
"""

import pytest
import torch

from datasets.phantom.write import make_phantom
from tests.helpers.training import CONFIG, call_apart, figures, load, rows, torchrun

pytestmark = pytest.mark.slow

STEPS = 60
IMAGES = 240  # 60 steps of 4


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """As many images as the steps take."""
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=IMAGES, val=4, seed=1, positive_fraction=0.3, size=256)
    return folder


def training(phantom, folder, **changes):
    """The tiny recipe as it is, one epoch of it."""
    values = {"epochs": 1, "lr_drop": "[]", "log_every": 1, "num_workers": 0, **changes}
    where = ["--data_path", str(phantom), "--output_dir", str(folder), "--device", "cpu"]
    return ["-c", str(CONFIG), *where, "--options", *(f"{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="module")
def one_rank(phantom, tmp_path_factory):
    """One rank with two accumulation steps."""
    folder = tmp_path_factory.mktemp("one") / "run"
    outcome = call_apart("main.py", *training(phantom, folder), timeout=400)
    assert outcome.code == 0, outcome.err
    return folder


def largest_difference(ours, theirs):
    """Over all weights, relative to the largest entry of each tensor."""
    scales = {name: max(theirs[name].abs().max().item(), 1e-3) for name in theirs}
    return max(((ours[name] - theirs[name]).abs().max() / scales[name]).item() for name in theirs)


def test_one_rank_with_two_accumulation_steps_equals_two_ranks(one_rank, phantom, tmp_path):
    outcome = torchrun(2, *training(phantom, tmp_path / "run", gradient_accumulation_steps=1))
    assert outcome.code == 0, outcome.err
    ours, theirs = (rows(folder, "train") for folder in (tmp_path / "run", one_rank))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, STEPS + 1))
    assert [row["boxes"] for row in ours] == [row["boxes"] for row in theirs]
    losses = [abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(ours, theirs, strict=True)]
    weights = {
        part: largest_difference(load(tmp_path / "run/checkpoint.pth")[part], load(one_rank / "checkpoint.pth")[part])
        for part in ("model", "ema")
    }
    empty = sum(row["boxes"] == 0 for row in ours)
    print(f"\nsteps without a box {empty}; losses {max(losses):.1e}; weights {weights}")  # noqa: T201 for the record
    assert max(losses) < 1e-3
    assert max(weights.values()) < 1e-3


@pytest.mark.parametrize("workers", [1, 4])
def test_loader_processes_change_no_bit(one_rank, phantom, tmp_path, workers):
    # more processes than cores are capped, so the cap is lifted here
    lifted = "import datasets.build; datasets.build.usable_cores = lambda: 8"
    script = f"{lifted}; import main; main.run_program(main.main)"
    outcome = call_apart("-c", script, *training(phantom, tmp_path / "run", num_workers=workers), timeout=400)
    assert outcome.code == 0, outcome.err
    assert figures(tmp_path / "run", "train", "epoch") == figures(one_rank, "train", "epoch")
    ours, theirs = load(tmp_path / "run/checkpoint.pth"), load(one_rank / "checkpoint.pth")
    assert all(torch.equal(ours[part][k], theirs[part][k]) for part in ("model", "ema") for k in theirs[part])
