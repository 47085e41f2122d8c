"""scripts/predict.py with an exported file: the same detections as with the checkpoint."""

import argparse
import json
import sys

import pytest

from tests.helpers.predict import predict
from tests.helpers.training import load_script
from util.base.errors import UserError
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.training_fixtures"]


def detections(folder):
    return json.loads((folder / "detections.json").read_text())


@pytest.mark.slow
def test_an_exported_file_predicts_what_the_checkpoint_predicts(trained, phantom, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "x.onnx"
    words = ["--checkpoint", trained / "checkpoint.pth", "--output", file, "--num_images", 4, "--images", phantom]
    monkeypatch.setattr("sys.argv", ["export.py", *map(str, words)])
    assert run_to_exit_code(load_script("export").main) == 0
    images = sorted(phantom.rglob("*.png"))[:4]
    assert predict("--onnx", file, *images, "--output_dir", tmp_path / "a").code == 0
    assert predict("--checkpoint", trained / "checkpoint.pth", *images, "--output_dir", tmp_path / "b").code == 0
    found, wanted = detections(tmp_path / "a"), detections(tmp_path / "b")
    assert [d["image_id"] for d in found] == [d["image_id"] for d in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-4)
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=2e-3)


@pytest.mark.slow
def test_a_file_for_one_size_predicts_at_that_size_and_a_changed_one_is_refused(
    trained, phantom, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "x.onnx"
    words = ["--checkpoint", trained / "checkpoint.pth", "--output", file, "--num_images", 4, "--repeats", 0]
    monkeypatch.setattr("sys.argv", ["export.py", *map(str, words), "--size", "160"])
    assert run_to_exit_code(load_script("export").main) == 0
    image = sorted(phantom.rglob("*.png"))[0]
    assert predict("--onnx", file, image, "--output_dir", tmp_path / "a").code == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    outcome = predict("--onnx", file, image, "--output_dir", tmp_path / "b")
    assert outcome.code == 2
    assert "is not as scripts/export.py left it (its checksum differs)" in outcome.err


def test_a_package_that_is_missing_is_named_with_where_it_is_listed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "models.export.onnx_detector", raising=False)
    with pytest.raises(UserError, match=r"--onnx needs the package onnxruntime: pip install -r requirements-extra.txt"):
        load_script("predict").load(argparse.Namespace(onnx=tmp_path / "x.onnx"), "cpu")


def test_what_a_file_cannot_do_is_refused(tmp_path):
    outcome = predict("--onnx", tmp_path / "x.onnx", tmp_path, "--output_dir", tmp_path / "o", "--scales", 160)
    assert outcome.code == 2
    assert "--onnx takes no --scales" in outcome.err
