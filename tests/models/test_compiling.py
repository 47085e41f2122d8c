"""torch.compile on parts of the network: the same numbers, one program for all sizes, and a word where it cannot be."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from engine import accumulate
from models import speed as compiling
from models import speed_up
from models.speed import compile_parts, parts_of, why_not
from tests.helpers import training as end_to_end
from tests.helpers.networks import tiny_dino
from util.config import load_config
from util.detection.batch import Window

pytest_plugins = ["tests.helpers.training_fixtures"]

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SPEED = load_config(tiny_dino.CONFIG, ["attn_backend=torch"]).speed


class Stem(nn.Module):
    """A backbone of one convolution, which a compiler is quick with."""

    num_channels = (16, 32, 64)

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(3, c, 3, stride=s, padding=1) for c, s in zip((16, 32, 64), (8, 16, 32), strict=True)
        )

    def forward(self, images):
        return [conv(images).relu() for conv in self.convs]


def build(*options):
    """A tiny network in float32 with a tiny backbone, in training mode."""
    torch.manual_seed(1)
    stem = Stem()
    with mock.patch("models.build.build_backbone", return_value=stem):
        model, criterion, _ = tiny_dino.build("enc_layers=2", "dec_layers=2", *options)
    return model.float().train(), criterion


def batch(counts, height, width):
    """In float32, as a loader makes it."""
    made = tiny_dino.batch(range(len(counts)), counts, side=max(height, width))
    targets = [{k: v.float() if v.is_floating_point() else v for k, v in t.items()} for t in made.targets]
    return replace(
        made, images=made.images[..., :height, :width].float(), mask=made.mask[..., :height, :width], targets=targets
    )


def losses_and_gradients(model, criterion, counts, height, width):
    model.zero_grad()
    window = Window([batch(counts, height, width)])
    losses, _ = accumulate(tiny_dino.learner(model, criterion), window, tiny_dino.plan(window))
    return {name: value.item() for name, value in losses[0].items()}, tiny_dino.gradients(model)


def test_parts_are_the_backbone_and_for_model_the_layers_too():
    model, _ = build()
    assert parts_of(model, "backbone") == [model.backbone[0]]
    layers = [*model.transformer.encoder.layers, *model.transformer.decoder.layers]
    assert parts_of(model, "model") == [model.backbone[0], *layers]


def test_names_and_copies_are_those_of_the_plain_network():
    model, _ = build()
    names = list(model.state_dict())
    with mock.patch.object(compiling, "why_not", return_value=None):
        assert compile_parts([model], "model", CPU) is None
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert all(a is not b for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_off_asks_for_no_compiler():
    with mock.patch.object(compiling, "why_not", side_effect=AssertionError):
        assert compile_parts([build()[0]], "off", CPU) is None


def test_a_start_says_what_computes_and_compiles_each_network_once():
    model, _ = build()
    with mock.patch.object(compiling, "why_not", return_value=None), mock.patch.object(nn.Module, "compile") as calls:
        said = speed_up([model, model], replace(SPEED, compile="backbone"), CPU)
    assert calls.call_count == 1
    assert said.splitlines() == [
        "deformable attention: torch",
        "compiled at their first use, which takes minutes: the backbone",
    ]


def test_without_a_compiler_there_is_one_warning_and_nothing_is_compiled():
    model, _ = build()
    with (
        mock.patch.object(compiling, "why_not", return_value="InvalidCxxCompiler: no g++"),
        mock.patch.object(nn.Module, "compile", side_effect=AssertionError),
    ):
        said = speed_up([model], replace(SPEED, compile="model"), CPU)
    assert said.count("warning: compile='model' is not possible") == 1
    assert "InvalidCxxCompiler: no g++" in said


def test_an_automatic_choice_is_told_with_what_stood_against_a_better_one():
    with mock.patch("models.build.choose_attention", return_value=("torch", "triton: there is no Triton")):
        said = speed_up([], replace(SPEED, attn_backend="auto"), CPU)
    assert said == "deformable attention: torch (auto; triton: there is no Triton)"


@pytest.mark.slow
def test_a_missing_compiler_is_found_out_and_named(tmp_path):
    program = "import sys; from models.speed import why_not; print(why_not('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            "PATH": "",
            "CXX": str(tmp_path / "none"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() not in ("None", "")
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < TorchVersion("2.15"), reason="PyTorch 2.14 compiles again for widths of 192 and of 256 cells"
)
def test_an_epoch_of_many_sizes_and_boxes_is_compiled_at_its_start_only():
    if reason := why_not("cpu"):
        pytest.skip(reason)
    plain, criterion = build("dn_padding_loss=True")
    model, _ = build("dn_padding_loss=True")
    assert compile_parts([model], "model", CPU) is None
    for counts, side in (((1,), 96), ((0,), 96), ((2,), 128), ((0,), 128)):
        losses_and_gradients(model, criterion, counts, side, side)
    later = [((3,), 160, 160), ((1,), 128, 192), ((7,), 192, 96), ((0,), 224, 160), ((13,), 128, 128), ((5,), 256, 160)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for counts, height, width in later:  # the sizes that were compiled were squares
            found, wanted = (losses_and_gradients(m, criterion, counts, height, width) for m in (model, plain))
            for name, loss in wanted[0].items():
                np.testing.assert_allclose(found[0][name], loss, rtol=1e-4, atol=1e-6, err_msg=name)
            largest = max(gradient.abs().max().item() for gradient in wanted[1].values())
            for name, gradient in wanted[1].items():
                np.testing.assert_allclose(found[1][name], gradient, rtol=1e-3, atol=1e-4 * largest, err_msg=name)
    model.eval(), plain.eval()
    for side in (96, 128, 160):  # evaluation has programs of its own, again one for all sizes
        with torch.inference_mode(), torch._dynamo.config.patch(error_on_recompile=side > 96):
            images, mask = batch((1,), side, 96).images, batch((1,), side, 96).mask
            found, wanted = model(images, mask).last, plain(images, mask).last
            torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    model.train()
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses_and_gradients(model, criterion, (2,), 160, 160)  # back to training: nothing is forgotten


@pytest.mark.slow
def test_a_training_with_compiled_parts_is_the_plain_one_to_rounding_and_goes_on_and_is_evaluated(phantom, tmp_path):
    if reason := why_not("cpu"):
        pytest.skip(reason)
    for which, epochs in (("off", (2,)), ("model", (1, 2))):
        for number in epochs:  # the second goes on from the checkpoint of the first
            changes = {"compile": which, "epochs": number, "lr_drop": [], "use_ema": True, "ema_decay": 0.5}
            with mock.patch("models.build.build_backbone", side_effect=lambda *_, **__: Stem()):
                outcome = end_to_end.call(*end_to_end.training(phantom, tmp_path / which, **changes))
            assert outcome.code == 0, outcome.err
    assert "compiled at their first use" in outcome.out
    plain, compiled = (end_to_end.losses(tmp_path / which) for which in ("off", "model"))
    assert len(plain) == len(compiled) > 2
    np.testing.assert_allclose([s["loss"] for s in compiled], [s["loss"] for s in plain], rtol=1e-3)
    assert len(end_to_end.rows(tmp_path / "model", "eval")) == 2
