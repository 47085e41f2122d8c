from pathlib import Path

import pytest

from util.training.checkpoints.start import choose_start

OWN, RESUME, PRETRAIN = "checkpoint.pth", Path("logs/other/checkpoint.pth"), Path("weights/official.pth")


@pytest.mark.parametrize(
    ("has_own", "resume", "pretrain", "kind", "path"),
    [
        (False, None, None, "scratch", None),
        (False, None, PRETRAIN, "pretrain", PRETRAIN),
        (False, RESUME, None, "resume", RESUME),
        (False, RESUME, PRETRAIN, "resume", RESUME),
        (True, None, None, "own", OWN),
        (True, None, PRETRAIN, "own", OWN),
        (True, RESUME, None, "own", OWN),
        (True, RESUME, PRETRAIN, "own", OWN),
    ],
)
def test_the_start_follows_one_table(tmp_path, has_own, resume, pretrain, kind, path):
    if has_own:
        (tmp_path / OWN).touch()
        (tmp_path / "best.pth").touch()  # never picked up
    start = choose_start(tmp_path, resume, pretrain)
    assert (start.kind, start.path) == (kind, tmp_path / OWN if path == OWN else path)
    if has_own and (resume or pretrain):
        assert f"{resume or pretrain} was for the first start" in start.reason


def test_resuming_the_own_checkpoint_by_name_ignores_nothing(tmp_path):
    (tmp_path / OWN).touch()
    assert "first start" not in choose_start(tmp_path, tmp_path / OWN, None).reason
