"""A run folder that commit 733bf37 left half-way is resumed and evaluated as that commit itself did it.

That commit trained the network of SIZES on the phantom and was asked to stop in the middle of its second epoch. Its
smallest backbone was cut down to one channel, so that the checkpoint stays small.
"""

import gzip
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from models.backbones import build
from tests.helpers.training import ROOT, call, figures, load, metrics, training
from util.metrics.files import load_detections

pytest_plugins = ["tests.helpers.training_fixtures"]
OLD = ROOT / "tests/golden/run_733bf37"
SIZES = {
    "hidden_dim": 32,
    "nheads": 1,
    "dim_feedforward": 4,
    "enc_layers": 1,
    "dec_layers": 1,
    "num_queries": 10,
    "num_select": 10,
    "num_feature_levels": 2,
    "return_interm_indices": [2, 3],
    "enc_n_points": 1,
    "dec_n_points": 1,
    "backbone_norm": "frozen_bn",
}
REST = {
    "epochs": 3,
    "lr_drop": [2],
    "lr": 0.003,
    "lr_backbone": 0.003,
    "warmup_steps": 0,
    "use_ema": False,
    "bootstrap_draws": 0,
    "keep_last_checkpoints": 1,
    "attn_backend": "torch",
}


@pytest.fixture
def run(room, monkeypatch):
    """A copy of the run folder."""
    spec = build.BACKBONES["resnet10_narrow"]
    monkeypatch.setitem(build.BACKBONES, "resnet10_narrow", replace(spec, build=partial(spec.build, width=1)))
    folder = room / "run"
    folder.mkdir()
    shutil.copy(OLD / "log.jsonl", folder)
    (folder / "checkpoint.pth").write_bytes(gzip.decompress((OLD / "checkpoint.pth.gz").read_bytes()))
    return folder


@pytest.fixture
def expected():
    """Metrics of its evaluation, and rows of the steps after it, as that commit computed them."""
    return json.loads((OLD / "expected.json").read_text())


def test_it_is_evaluated_to_the_same_detections_and_metrics(run, phantom, room, expected):
    outcome = call("--eval", "--resume", run / "checkpoint.pth", "--data_path", phantom, "--output_dir", room / "eval")
    assert outcome.code == 0, outcome.err
    assert metrics(room / "eval") == pytest.approx(expected["metrics"], rel=0, abs=1e-6)
    truth = json.loads((phantom / "annotations/json/TBX11K_val.json").read_text())
    images = [image["id"] for image in truth["images"]]
    ours, theirs = (load_detections(folder / "detections.json.gz", images) for folder in (room / "eval", OLD))
    assert ours.label.tolist() == theirs.label.tolist()
    np.testing.assert_allclose(ours.score, theirs.score, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, rtol=0, atol=1e-3)  # pixels


def test_it_is_resumed_to_the_same_losses_and_metrics(run, phantom, expected):
    outcome = call(*training(phantom, run, **SIZES, **REST))
    assert outcome.code == 0, outcome.err
    assert "at epoch 1, step 5" in outcome.out
    assert load(run / "checkpoint.pth")["epoch"] == 3
    rows = [row for row in figures(run, "train", "epoch", "eval") if row["step"] > 5]
    assert len(rows) == len(expected["rows"])
    for row, old in zip(rows, expected["rows"], strict=True):
        floats = {key: value for key, value in old.items() if isinstance(value, float)}
        assert {key: row[key] for key in floats} == pytest.approx(floats, rel=1e-4, abs=1e-5)
        assert {**row, **floats} == old
