"""The knob `tensorboard` in a training."""

import sys

import pytest

from tests.helpers.training import ONE_EPOCH, assert_refused, call, rows, training

pytest_plugins = ["tests.helpers.training_fixtures"]


def test_asked_for_without_the_package_training_stops_before_it_writes(phantom, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    outcome = call(*training(phantom, tmp_path / "run", tensorboard=True))
    assert_refused(outcome, "tensorboard = True", "pip install tensorboard")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_that_goes_on_shows_each_row_once(phantom, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for changes in (ONE_EPOCH, {"epochs": 2, "lr_drop": [1]}):
        assert call(*training(phantom, tmp_path / "run", tensorboard=True, **changes)).code == 0
    reader = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    reader.Reload()
    for kind, column in (("train", "loss"), ("epoch", "class_skill"), ("eval", "all/agnostic/AP")):
        shown = [(event.step, event.value) for event in reader.Scalars(f"{kind}/{column}")]
        logged = [(row["step"], pytest.approx(row[column])) for row in rows(tmp_path / "run", kind)]
        assert shown == logged
        assert len(shown) >= 2
