"""The weights of a checkpoint are found however they were wrapped, and which of several are taken is stated."""

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.wrappers import find_weights

FILE = Path("other.pth")
ONE, TWO = {"a.weight": torch.ones(1)}, {"a.weight": torch.full((1,), 2.0)}  # plain, averaged
COUNT = torch.tensor(7)


def prefixed(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("content", "value", "kind", "entry"),
    [
        ({"model": ONE}, 1, "model", "model"),
        (ONE, 1, "model", ""),
        ({"state_dict": ONE, "epoch": 3}, 1, "model", "state_dict"),
        ({"model": prefixed("module.", ONE)}, 1, "model", "model"),
        (prefixed("_orig_mod.", ONE), 1, "model", ""),
        (prefixed("module._orig_mod.", ONE), 1, "model", ""),
        (prefixed("_orig_mod.module.", ONE), 1, "model", ""),
        ({"state_dict": prefixed("model.", ONE)}, 1, "model", "state_dict"),  # Lightning
        ({"state_dict": {**prefixed("model.", ONE), "criterion.weight": COUNT}}, 1, "model", "state_dict"),
        ({"model": ONE, "ema": None}, 1, "model", "model"),
        ({"model": ONE, "ema": TWO}, 2, "ema", "ema"),
        ({"model": ONE, "ema": {"module": TWO, "updates": 5}}, 2, "ema", "ema.module"),
        ({"model": ONE, "ema_model": prefixed("module.", TWO)}, 2, "ema", "ema_model"),
        ({"model": ONE, "model_ema": TWO}, 2, "ema", "model_ema"),
        ({"model": ONE, "ema_state_dict": prefixed("module.", TWO)}, 2, "ema", "ema_state_dict"),
        ({"state_dict": ONE, "state_dict_ema": TWO}, 2, "ema", "state_dict_ema"),
        ({**prefixed("module.", TWO), "n_averaged": COUNT}, 2, "ema", ""),
        ({"model": {**prefixed("module.", TWO), "n_averaged": COUNT}}, 2, "ema", "model"),
        ({"state_dict": {**prefixed("model.", ONE), **prefixed("ema_model.", TWO)}}, 2, "ema", "state_dict"),
        # mmengine exchanges the two when it saves
        ({"meta": {}, "state_dict": TWO, "ema_state_dict": prefixed("module.", ONE)}, 2, "ema", "state_dict"),
        ({"model": {**ONE, "head._extra_state": None}}, 1, "model", "model"),
    ],
)
def test_weights_are_found_in_every_wrapper(content, value, kind, entry):
    found = find_weights(content, FILE)
    assert found.tensors["a.weight"] == value
    assert (found.kind, found.entry) == (kind, entry)
    assert not found.tensors.keys() - {"a.weight", "criterion.weight"}


def test_of_several_the_taken_and_the_others_are_named():
    assert str(find_weights({"model": ONE, "ema": {"module": TWO}}, FILE)) == (
        "averaged weights 'ema.module' taken, not 'model'"
    )
    assert str(find_weights({"model": ONE}, FILE)) == ""


def test_what_pytorch_itself_wraps(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2))
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    for content, kind in [
        (averaged.state_dict(), "ema"),
        ({"model": nn.DataParallel(network).state_dict()}, "model"),
        ({"model": torch.compile(network, backend="eager").state_dict()}, "model"),
    ]:
        torch.save(content, tmp_path / "w.pth")
        found = find_weights(load(tmp_path / "w.pth"), FILE)
        assert found.tensors.keys() == network.state_dict().keys()
        assert found.kind == kind
        assert all(torch.equal(found.tensors[k], v) for k, v in network.state_dict().items())


def test_safetensors_are_read(tmp_path):
    save_file(ONE, tmp_path / "model.safetensors")
    assert find_weights(load(tmp_path / "model.safetensors"), FILE).tensors["a.weight"] == 1
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: cannot be read as a checkpoint"):
        load(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="no such checkpoint: it is a folder; name a file in it"):
        load(tmp_path)


class Trainer:
    """An object of a program that is not installed here."""


class Payload:
    """What a malicious file would run."""

    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_foreign_object_is_named_and_the_weights_can_be_saved_alone(is_zip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "theirs.pth"
    torch.save({"model": ONE, "trainer": Trainer()}, file, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError) as caught:
        load(file)
    message = str(caught.value)
    assert f"{file}: cannot be read as a checkpoint: beside tensors and plain values it holds" in message
    assert f"{Trainer.__module__}.Trainer" in message
    assert "\n" not in message
    code = shlex.split(message.partition("python -c ")[2])[0]
    exec(code, {})
    assert find_weights(load(tmp_path / "theirs_weights.pth"), FILE).tensors["a.weight"] == 1


def test_a_whole_network_is_saved_alone_by_the_same_line(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"holds torch\.nn\.modules\.linear\.Linear") as caught:
        load(tmp_path / "net.pth")
    exec(shlex.split(str(caught.value).partition("python -c ")[2])[0], {})
    assert find_weights(load(tmp_path / "net_weights.pth"), FILE).tensors.keys() == {"weight", "bias"}


def test_nothing_of_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": ONE, "extra": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"holds pathlib\.Path, "):
        load(tmp_path / "bad.pth")
    assert not (tmp_path / "pwned").exists()


def test_the_config_of_another_program_is_not_taken_for_one_of_ours(tmp_path):
    torch.save({"model": ONE, "config": {"model": {"width": 3}}}, tmp_path / "w.pth")
    assert load(tmp_path / "w.pth").keys() == {"model"}
    torch.save({"model": ONE, "config": {"model": {"width": 3}}, "category_names": {"1": "x"}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="config is a dict of 1 entries"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {"a": 1.5}}, {"model": {}}, {"model": [1]}])
def test_a_checkpoint_without_weights_is_refused(content):
    with pytest.raises(CheckpointError, match=r"other\.pth: has no weights under 'model'"):
        find_weights(content, FILE)


def test_a_value_of_an_average_beside_the_network_is_not_the_network(tmp_path):
    tensors = {name: torch.ones(2) for name in ("model.a.weight", "model.b.weight", "ema.decay")}
    found = find_weights({"state_dict": tensors}, tmp_path / "x.pth")
    assert {"a.weight", "b.weight"} <= found.tensors.keys()
    assert found.kind == "model"
