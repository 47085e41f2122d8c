"""scripts/export.py: what it writes does what PyTorch does, and what does not is not left behind."""

import argparse
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.export.writers import write_onnx
from models.inference.load import load_detector
from tests.helpers.training import call_apart, load_script
from util.base.errors import UserError
from util.detection.pixels import resized_size
from util.distributed.exit_codes import run_to_exit_code
from util.training.checkpoints import checkpoint
from util.training.checkpoints.start import config_inside

pytest_plugins = ["tests.helpers.training_fixtures"]

export = load_script("export")
QUICK = ["--num_images", "4", "--repeats", "1"]


def run(monkeypatch, *arguments):
    """The script, called from within on one thread; its exit code."""
    monkeypatch.setattr("sys.argv", ["export.py", *map(str, arguments)])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return run_to_exit_code(export.main)


@pytest.mark.parametrize(("text", "wanted"), [("512", (512, 512)), ("512x640", (512, 640)), ("dynamic", (None, None))])
def test_a_size_is_one_number_or_two_or_any(text, wanted):
    assert export.size(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "-1", "512x", "x512", "512x0", "1x2x3", "any"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected 512, 512x640"):
        export.size(text)


@pytest.mark.parametrize(("option", "value", "low"), [("--num_images", "3", 4), ("--repeats", "-1", 0)])
def test_a_number_that_is_too_small_is_refused(monkeypatch, capsys, option, value, low):
    assert run(monkeypatch, "--checkpoint", "x.pth", option, value) == 2
    assert f"{option} must be at least {low}, got {value}" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_before_the_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("models.export.writers.find_spec", lambda name: None if name == "onnxscript" else name)
    assert run(monkeypatch, "--checkpoint", tmp_path / "x.pth") == 2
    told = "takes packages that are not here: pip install onnxscript, or all of requirements-extra.txt\n"
    assert capsys.readouterr().err == f"error: --format onnx {told}"


def test_a_place_where_no_file_can_be_is_refused_before_the_work(monkeypatch, capsys, trained, tmp_path):
    monkeypatch.setattr(export, "load_detector", None)  # calling it would be a TypeError
    (tmp_path / "file").write_text("x")
    source = tmp_path / "best.pth"
    source.write_bytes((trained / "best.pth").read_bytes())
    for output, phrase in [
        (tmp_path, "is a folder; --output takes the name of a file"),
        (source, "is the checkpoint itself; give another --output"),
        (tmp_path / "file" / "x.pt2", "cannot be made"),
    ]:
        assert run(monkeypatch, "--checkpoint", source, "--format", "torch_export", "--output", output) == 2
        error = capsys.readouterr().err
        assert phrase in error
        assert error.count("\n") == 1
    monkeypatch.setattr(export.os, "access", lambda *_: False)
    assert run(monkeypatch, "--checkpoint", source, "--format", "torch_export", "--output", tmp_path / "x.pt2") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert source.read_bytes() == (trained / "best.pth").read_bytes()


def test_images_that_are_too_few_are_told_before_the_work(monkeypatch, capsys, trained, tmp_path):
    monkeypatch.setattr(export, "load_detector", None)
    words = ["--checkpoint", trained / "best.pth", "--format", "torch_export", "--images", tmp_path]
    assert run(monkeypatch, *words, "--output", tmp_path / "x.pt2") == 2
    assert "holds 0 images, --num_images is 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "scale", "max_size"), [(None, 96, 160), ((240, 240), 240, 400), ((48, 320), 48, 320)]
)
def test_images_are_resized_to_the_only_size_that_a_file_takes(trained, chosen, scale, max_size):
    detector = load_detector(trained / "best.pth", device="cpu", options=export.PLAIN_OPTIONS)
    detector.views = (replace(detector.views[0], scale=96, max_size=160),)
    config = config_inside(trained / "best.pth", checkpoint.load(trained / "best.pth"), export.PLAIN_OPTIONS)
    facts = export.facts_of(detector, config, argparse.Namespace(size=chosen, post_processing="inside", format="onnx"))
    assert (facts.scale, facts.max_size) == (scale, max_size)
    assert resized_size(1000, 1000, facts.scale, facts.max_size) == (scale, scale)


@pytest.mark.parametrize("when", ["write", "check"])
def test_an_interrupted_export_leaves_nothing(monkeypatch, capsys, trained, tmp_path, when):
    def stop(*arguments):
        if when == "write":
            arguments[-1].write_text("half")
        raise KeyboardInterrupt

    if when == "write":
        monkeypatch.setitem(export.WRITERS, "torch_export", stop)
    else:
        monkeypatch.setitem(export.WRITERS, "torch_export", lambda *arguments: arguments[-1].write_text("whole"))
        monkeypatch.setattr(export, "open_runner", stop)
    words = ["--checkpoint", trained / "best.pth", "--format", "torch_export", "--output", tmp_path / "x.pt2"]
    assert run(monkeypatch, *words, *QUICK) == 130
    assert (
        capsys.readouterr().err == "error: interrupted; the same command goes on from what was saved, if anything was\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_into_an_onnx_file_are_refused_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr("models.export.writers.LARGEST_ONNX", 3)
    with pytest.raises(UserError, match="an ONNX file that stands alone holds less than 2; take --format torch_export"):
        write_onnx(torch.nn.Linear(1, 1, bias=False), None, 33, tmp_path / "x.onnx")


def test_a_checkpoint_that_is_not_there_is_named(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "--checkpoint", tmp_path / "x.pth", "--format", "torch_export") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'x.pth'}: no such checkpoint; check the path\n"


def test_a_size_with_fewer_cells_than_queries_is_refused_before_the_work(monkeypatch, capsys, trained):
    assert run(monkeypatch, "--checkpoint", trained / "best.pth", "--format", "torch_export", "--size", "24") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --size 24x24: a network with 20 queries takes sides of at least 33 pixels")
    assert error.count("\n") == 1


def test_a_swin_backbone_is_refused_for_any_size_and_taken_for_one():
    swin = SimpleNamespace(height=None, width=None, config={"backbone": "swin_T_224_1k", "num_queries": 1})
    with pytest.raises(UserError, match="--size dynamic: the backbone swin_T_224_1k takes a fixed size; give --size a"):
        export.check_size(swin, 33)
    swin.height = swin.width = 64
    export.check_size(swin, 33)


def test_the_x_rays_of_the_check_are_those_of_a_folder_or_phantoms(phantom, tmp_path):
    assert [i.size for i in export.x_rays(phantom, 3)] == [(128, 128)] * 3
    drawn = [np.asarray(i) for i in export.x_rays(None, 2)]
    assert drawn[0].shape == (512, 512, 3)
    assert not np.array_equal(*drawn)
    with pytest.raises(UserError, match=r"holds 0 images, --num_images is 4; give fewer"):
        list(export.x_rays(tmp_path, 4))
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(UserError, match=r"x.png: cannot be read as an image .* take it out of the folder"):
        list(export.x_rays(tmp_path, 1))


@pytest.mark.slow
def test_every_option_has_a_sentence():
    told = call_apart("scripts/export.py", "--help")
    assert told.code == 0
    for option in ("--checkpoint", "--format", "--output", "--size", "--post_processing", "--images", "--num_images"):
        assert option in told.out


@pytest.mark.slow
@pytest.mark.parametrize(("size", "post_processing"), [("96", "inside"), ("dynamic", "outside")])
def test_an_onnx_file_alone_detects_what_the_checkpoint_detects(
    monkeypatch, capsys, trained, phantom, tmp_path, size, post_processing
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from models.export.onnx_detector import load_onnx_detector

    path = tmp_path / "x.onnx"
    options = ["--size", size, "--post_processing", post_processing, "--images", phantom]
    assert run(monkeypatch, "--checkpoint", trained / "best.pth", "--output", path, *options, *QUICK) == 0
    told = capsys.readouterr().out
    assert "opset 20" in told
    assert "largest deviation" in told
    assert told.count("x-rays ") == (4 if size == "dynamic" else 2)
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]  # weights inside, and nothing else left
    pictures = sorted(phantom.rglob("*.png"))[:3]
    ours, theirs = load_detector(trained / "best.pth", device="cpu"), load_onnx_detector(path)
    assert (ours.names, ours.threshold) == (theirs.names, theirs.threshold)
    for picture in pictures:
        a, b = ours(picture), theirs(picture)
        np.testing.assert_allclose(b.score, a.score, atol=1e-4)
        np.testing.assert_array_equal(b.label, a.label)
        np.testing.assert_allclose(b.xyxy, a.xyxy, atol=2e-3)  # pixels of the file, which is larger


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchscript", "torch_export"])
def test_the_other_kinds_agree_too(monkeypatch, capsys, trained, tmp_path, kind):
    path = tmp_path / "x.pt2"
    assert run(monkeypatch, "--checkpoint", trained / "best.pth", "--output", path, "--format", kind, *QUICK) == 0
    told = capsys.readouterr().out
    assert ("PyTorch has deprecated it" in told) == (kind == "torchscript")
    assert path.is_file()


@pytest.mark.slow
def test_a_file_that_deviates_is_not_left(monkeypatch, capsys, trained, tmp_path):
    def open_wrong(path, kind, facts):
        assert path.is_file()
        run = opened(path, kind, facts)
        return lambda images, sizes: (run(images, sizes)[0] + 1e-3, *run(images, sizes)[1:])

    opened = export.open_runner
    monkeypatch.setattr(export, "open_runner", open_wrong)
    path = tmp_path / "x.pt2"
    assert (
        run(monkeypatch, "--checkpoint", trained / "best.pth", "--output", path, "--format", "torch_export", *QUICK)
        == 1
    )
    assert list(tmp_path.iterdir()) == []
    assert "less than 0.001 px and 0.0001 is allowed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_that_was_there_stays_when_the_new_one_fails(monkeypatch, trained, tmp_path):
    def fail(*_):
        raise UserError("cannot")

    monkeypatch.setattr(export, "open_runner", fail)
    path = tmp_path / "x.pt2"
    path.write_text("old")
    assert (
        run(monkeypatch, "--checkpoint", trained / "best.pth", "--output", path, "--format", "torch_export", *QUICK)
        == 2
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt2"]
    assert path.read_text() == "old"


@pytest.mark.slow
def test_a_network_that_is_not_the_checkpoint_s_is_not_left(monkeypatch, capsys, trained, tmp_path):
    def write_wrong(network, *rest):
        weight = next(p for n, p in network.named_parameters() if n.endswith("decoder.class_embed.0.weight"))
        with torch.no_grad():
            weight[:, 0] += 1e-2  # of one feature: the same for all would be lost after a layer norm
        write(network, *rest)

    write = export.WRITERS["torch_export"]
    monkeypatch.setitem(export.WRITERS, "torch_export", write_wrong)
    path = tmp_path / "x.pt2"
    words = ["--checkpoint", trained / "best.pth", "--output", path, "--format", "torch_export"]
    assert run(monkeypatch, *words, *QUICK) == 1
    assert list(tmp_path.iterdir()) == []
    assert "is not written" in capsys.readouterr().err
