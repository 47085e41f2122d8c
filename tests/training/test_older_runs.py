"""A run of a version with fewer knobs stays usable."""

import pytest
import torch

from tests.helpers.training import assert_refused, call, load, metrics, training
from util.config.schema import BEFORE

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.fixture
def older(trained, tmp_path):
    """A checkpoint as a version without some of the knobs wrote it, changed further."""

    def write(**changes):
        content = load(trained / "checkpoint.pth")
        config = {key: value for key, value in content["config"].items() if key not in BEFORE}
        torch.save({**content, "config": config, **changes}, tmp_path / "older.pth")
        return tmp_path / "older.pth"

    return write


def test_an_older_checkpoint_is_evaluated_to_the_same_figures(older, trained, phantom, room):
    reports, plain = [], ["--options", "attn_backend=torch", "fast_layers=False"]  # as older versions computed
    for name, path in (("old", older()), ("new", trained / "checkpoint.pth")):
        outcome = call("--eval", "--resume", path, "--data_path", phantom, "--output_dir", room / name, *plain)
        assert outcome.code == 0, outcome.err
        assert ("taken as what it did then" in outcome.err) == (name == "old")
        reports.append(metrics(room / name))
    assert reports[0] == reports[1]


def test_a_checkpoint_with_an_attention_that_no_longer_exists_is_resumed_and_evaluated(trained, phantom, room):
    content = load(trained / "checkpoint.pth")
    content["config"]["attn_backend"] = "compile"
    torch.save(content, room / "older.pth")
    outcome = call("--eval", "--resume", room / "older.pth", "--data_path", phantom, "--output_dir", room / "figures")
    assert outcome.code == 0, outcome.err
    assert "attn_backend='compile' no longer exists; taken as 'auto'" in outcome.err
    outcome = call(*training(phantom, room / "run", "--resume", room / "older.pth", epochs=3))
    assert outcome.code == 0, outcome.err
    assert "attn_backend 'compile' -> 'auto'" in outcome.out


def test_an_older_checkpoint_is_gone_on_with_and_what_is_done_otherwise_is_told(older, phantom, room):
    outcome = call(*training(phantom, room / "run", "--resume", older(), epochs=3))
    assert outcome.code == 0, outcome.err
    assert "exclude_unlabelled_tb False -> True" in outcome.out
    assert "positive_fraction" not in next(line for line in outcome.out.splitlines() if line.startswith("start: "))


def test_inside_an_epoch_it_is_told_which_knob_took_an_image_away(older, phantom, room):
    path = older(window=1, epoch=1, num_images=13)
    assert_refused(
        call(*training(phantom, room / "run", "--resume", path, epochs=3)),
        "training images 13 instead of 12 and exclude_unlabelled_tb False instead of True. Go on with these",
    )
