import argparse
import io
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.file import save
from util.training.checkpoints.wrappers import find_weights

FILE = Path("theirs.pth")


class Payload:
    """Unpickling it would leave a trace."""

    def __reduce__(self):
        return (Path.touch, (Path("i_was_run"),))


def image_of(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    content = {
        "model": {"w": torch.randn(3, 4), "n": torch.tensor(7)},
        "epoch": 3,
        "best": {"value": 0.5, "metric": "AP", "epoch": 2},
        "config": {"lr_drop": (30, 40), "matcher_focal_alpha": None},
    }
    save(tmp_path / "a.pth", content)
    again = load(tmp_path / "a.pth")
    assert torch.equal(again["model"].pop("w"), content["model"].pop("w"))
    assert again == content


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, data in (("zip.pth", image_of({"model": Payload()})), ("plain.pth", pickle.dumps(Payload(), protocol=2))):
        Path(path).write_bytes(data)
        with pytest.raises(
            CheckpointError,
            match=rf"{path}: cannot be read as a checkpoint.*(more than weights|pathlib)",
        ):
            load(Path(path))
    assert not Path("i_was_run").exists()


def test_an_official_file_with_its_namespace_loads(tmp_path):
    arguments = argparse.Namespace(lr=1e-4, lr_drop=11, backbone="resnet50", frozen_weights=None)
    model = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    torch.save({"model": model, "args": arguments, "epoch": 11}, tmp_path / "checkpoint0011.pth")
    content = load(tmp_path / "checkpoint0011.pth")
    assert find_weights(content, FILE).tensors.keys() == {"a", "b"}
    assert content["epoch"] == 11


def test_the_door_for_the_namespace_is_closed_again(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    load(tmp_path / "a.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pth: no such checkpoint"):
        load(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share):
    data = image_of({"model": {"a": torch.zeros(1000)}})
    (tmp_path / "a.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="cut short"):
        load(tmp_path / "a.pth")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.text(max_size=40).map(str.encode),
        st.tuples(st.integers(0, 400), st.integers(0, 255)).map(lambda change: spoiled(*change)),
    )
)
@pytest.mark.filterwarnings("ignore")
def test_bytes_that_are_no_checkpoint_are_the_users_error(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    try:
        assert isinstance(load(tmp_path / "a.pth"), dict)
    except CheckpointError as error:
        assert "a.pth: " in str(error)  # noqa: PT017 some spoiled bytes are read back, and that is as good


def spoiled(position, value):
    data = bytearray(pickle.dumps({"model": {"a": 1.5, "b": [1, 2]}}, protocol=2) * 2)
    data[position % len(data)] = value
    return bytes(data)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), 7])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected a dict with 'model'"):
        load(tmp_path / "a.pth")
