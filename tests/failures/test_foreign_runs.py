"""A checkpoint or a run folder of somebody else's runs nothing here and chooses no place to write."""

import shutil

import pytest
import torch

from tests.helpers.training import call, load, load_script, snapshot
from util.distributed.exit_codes import run_to_exit_code
from util.training.checkpoints.start import config_inside

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.fixture
def stranger(trained, room):
    """A checkpoint whose config names paths of its own."""

    def save(**changes):
        content = load(trained / "best.pth")
        content["config"] = {**content["config"], **changes}
        (room / "theirs").mkdir(exist_ok=True)
        torch.save(content, room / "theirs/best.pth")
        return room / "theirs/best.pth"

    return save


def evaluate(path, data, *options):
    where = ["--data_path", data, "--output_dir", path.parent.parent / "out", "--device", "cpu"]
    return call("--eval", "--resume", path, *where, *(["--options", *options] if options else []))


def test_a_checkpoint_does_not_choose_where_an_evaluation_writes(stranger, phantom, room):
    path = stranger(image_cache=str(room / "deep/er"), backbone_weights=str(room / "deep/weights.pth"))
    outcome = evaluate(path, phantom)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("image_cache of its training is not used; to name a folder: --options image_cache=") == 1
    assert {folder.name for folder in room.iterdir()} == {"theirs", "out"}
    assert [file.name for file in (room / "theirs").iterdir()] == ["best.pth"]


def test_an_evaluation_uses_the_cache_that_the_command_line_names(stranger, phantom, room):
    path = stranger(image_cache=str(room / "deep"))
    outcome = evaluate(path, phantom, f"image_cache={room / 'mine'}")
    assert (outcome.code, outcome.err) == (0, "")
    assert {folder.name for folder in room.iterdir()} == {"theirs", "out", "mine"}


@pytest.mark.parametrize("name", ["../{}", "{}/annotations/json/TBX11K_val", "json/../TBX11K_val", "TBX11K_val.json"])
def test_a_checkpoint_names_a_list_of_the_data_folder_and_no_path(name, stranger, data, room):
    (data / "annotations/outside.json").write_bytes((data / "annotations/json/TBX11K_val.json").read_bytes())
    outcome = evaluate(stranger(val_list=name.format("outside" if name.startswith(".") else data)), data)
    assert outcome.code == 2
    assert "has no split" in outcome.err
    assert not (room / "out").exists()


def test_no_config_inside_a_checkpoint_has_a_path_that_the_caller_did_not_name(stranger, room):
    path = stranger(image_cache=str(room / "deep"))
    assert config_inside(path, load(path), []).data.image_cache == ""
    assert config_inside(path, load(path), ["image_cache=mine"]).data.image_cache == "mine"


@pytest.fixture
def foreign(trained, room):
    """A run folder whose config.py leaves a trace when it is run."""
    folder = room / "foreign"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("*.pth"))
    trap = f"__import__('pathlib').Path({str(room / 'CODE_RAN')!r}).touch()\n"
    (folder / "config.py").write_text((folder / "config.py").read_text() + trap)
    return folder


COMMANDS = {
    "show_detections": ["--data_path", "DATA"],
    "plot_evaluation": ["--data_path", "DATA", "--bootstrap", "0"],
    "make_model_card": [],
}


SLOW = [pytest.param("plot_evaluation", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", ["show_detections", "make_model_card", *SLOW])
def test_a_script_that_is_given_a_run_folder_runs_nothing_of_it(name, foreign, phantom, room, monkeypatch, capsys):
    arguments = [str(phantom) if word == "DATA" else word for word in COMMANDS[name]]
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(foreign), *arguments])
    assert run_to_exit_code(load_script(name).main) == 2
    assert f"{foreign / 'config.py'}, line " in capsys.readouterr().err
    assert not (room / "CODE_RAN").exists()


@pytest.mark.parametrize("name", ["check_run", pytest.param("plot_run", marks=pytest.mark.slow)])
def test_a_script_that_reads_the_log_alone_heeds_no_config(name, foreign, room, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(foreign)])
    assert run_to_exit_code(load_script(name).main) == 0
    assert not (room / "CODE_RAN").exists()


@pytest.mark.parametrize("name", ["show_detections", *SLOW])
def test_a_run_folder_does_not_choose_where_a_script_writes(name, trained, phantom, room, monkeypatch):
    folder = room / "foreign"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("*.pth"))
    text = (folder / "config.py").read_text()
    (folder / "config.py").write_text(text.replace("image_cache = ''", f"image_cache = {str(room / 'deep')!r}"))
    before = snapshot(folder)
    arguments = [str(phantom) if word == "DATA" else word for word in COMMANDS[name]]
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(folder), *arguments, "--output", str(room / "out.png")])
    assert run_to_exit_code(load_script(name).main) == 0
    assert {path.name for path in room.iterdir()} == {"foreign", "out.png"}
    assert snapshot(folder) == before
