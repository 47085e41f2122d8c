"""A flipped bit in a checkpoint, or a page that reads as zeros, is noticed by everything that reads checkpoints."""

import random

import pytest
import torch

from models.backbones.weights import WeightsError, read_file
from models.inference.load import load_detector
from tests.helpers.files.damage import flipped, with_zeros
from tests.helpers.predict import predict
from tests.helpers.training import assert_refused, call, copy_run, first_image, load_script, training
from util.distributed.exit_codes import run_to_exit_code
from util.training.checkpoints import checkpoint
from util.training.checkpoints.checkpoint import CheckpointError

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.fixture(params=[flipped, with_zeros])
def damaged(request, trained, room):
    """A copy of a checkpoint with one damage."""
    path = room / "damaged.pth"
    path.write_bytes(request.param((trained / "checkpoint.pth").read_bytes(), random.Random(1)))
    return path


def test_every_use_of_it_is_refused(damaged, trained, phantom, room):
    uses = [
        (call, training(phantom, room / "r", "--resume", damaged, epochs=3)),
        (call, training(phantom, room / "t", "--pretrain_model_path", damaged)),
        (call, ["--eval", "--resume", damaged, "--data_path", phantom, "--output_dir", room / "e"]),
    ]
    for run, arguments in uses:
        assert_refused(run(*arguments), f"{damaged}: ")
    outcome = predict("--checkpoint", damaged, first_image(phantom), "--output_dir", room / "p")
    assert outcome.code == 2
    assert str(damaged) in outcome.err
    run = copy_run(trained, room / "run")
    damaged.replace(run / "checkpoint.pth")
    assert_refused(call(*training(phantom, run, epochs=3)), f"{run / 'checkpoint.pth'}: ")


def test_the_scripts_refuse_it_too(damaged, phantom, room, monkeypatch, capsys):
    commands = {
        "export": ["--checkpoint", damaged, "--images", phantom / "imgs", "--output", room / "x.onnx"],
        "show_attention": [first_image(phantom), "--checkpoint", damaged, "--output_dir", room / "a"],
    }
    for name, arguments in commands.items():
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        assert run_to_exit_code(load_script(name).main) == 2
        assert f"{damaged}: " in capsys.readouterr().err


def test_a_backbone_file_with_flipped_weights_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.arange(5000.0)}, tmp_path / "r.pth")
    data = bytearray((tmp_path / "r.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "r.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=r"r\.pth cannot be read .*not what was written"):
        read_file(tmp_path / "r.pth")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flipped, with_zeros])
def test_200_of_200_damages_of_a_real_checkpoint_are_noticed(trained, room, damage):
    whole, path, draw = (trained / "checkpoint.pth").read_bytes(), room / "c.pth", random.Random(0)
    for _ in range(200):
        path.write_bytes(damage(whole, draw))
        for read in (checkpoint.load, lambda p: load_detector(p, device="cpu")):
            with pytest.raises(CheckpointError):
                read(path)
