"""The same ids with other names: refused where the classes must stay, new rows where a training begins with weights."""

import json

import pytest
import torch

import main
from tests.helpers.training import ONE_EPOCH, annotations, assert_refused, call, copy_run, load, rows, training
from util.training.checkpoints.file import save

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.fixture
def swapped(data):
    """The phantom with the names of two categories swapped; (folder, names before)."""
    names = {c["id"]: c["name"] for c in json.loads(annotations(data).read_text())["categories"]}
    for which in ("train", "val"):
        content = json.loads(annotations(data, which).read_text())
        for category in content["categories"]:
            category["name"] = names[{1: 2, 2: 1}.get(category["id"], category["id"])]
        annotations(data, which).write_text(json.dumps(content))
    return data, names


def test_it_is_neither_evaluated_nor_resumed_and_both_lists_are_shown(swapped, trained, room):
    data, names = swapped
    run = copy_run(trained, room / "run")
    best = run / "best.pth"
    both = (f"was trained on the categories 1 '{names[1]}', 2 '{names[2]}'", f"data has 1 '{names[2]}', 2 '{names[1]}'")
    assert_refused(call("--eval", "--resume", best, "--data_path", data), f"{best}: ", *both, "1, 2 mean another class")
    assert_refused(call(*training(data, room / "new", "--resume", best, epochs=3)), f"{best}: ", *both)
    assert_refused(call(*training(data, run, epochs=3)), f"{run / 'checkpoint.pth'}: ", *both)
    assert not (room / "new").exists()


def test_a_training_from_its_weights_begins_the_rows_of_other_classes_anew_and_says_so(
    swapped, trained, room, monkeypatch
):
    data, names = swapped
    begun, real = {}, main.load_start

    def begin(state, *rest):
        begun["before"] = {k: v.clone() for k, v in state.model.state_dict().items()}
        begun["said"] = real(state, *rest)
        begun["after"] = state.model.state_dict()
        raise KeyboardInterrupt  # what it trains then is of no interest

    monkeypatch.setattr(main, "load_start", begin)
    assert call(*training(data, room / "tuned", "--pretrain_model_path", trained / "best.pth")).code == 130
    change = f"1 ({names[1]} -> {names[2]}), 2 ({names[2]} -> {names[1]})"
    assert f"rows of other classes left as initialised in 15 tables: {change}" in begun["said"]
    theirs = load(trained / "best.pth")["ema"]
    for name, tensor in begun["after"].items():
        expected = theirs[name].clone()
        if "class_embed" in name or "label_enc" in name:
            expected[[1, 2]] = begun["before"][name][[1, 2]]
        assert torch.equal(tensor, expected), name


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["category_names", None])
def test_without_names_or_with_the_same_ones_all_is_as_before(trained, phantom, room, gone):
    content = load(trained / "best.pth")
    path = room / "c.pth"
    save(path, {k: v for k, v in content.items() if k != gone})
    outcome = call("--eval", "--resume", path, "--data_path", phantom, "--output_dir", room / "e")
    assert outcome.code == 0, outcome.err
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", path, **ONE_EPOCH))
    assert outcome.code == 0, outcome.err
    assert "rows of other classes" not in outcome.out


@pytest.mark.parametrize("flag", ["--resume", "--pretrain_model_path"])
def test_a_checkpoint_that_is_named_but_not_used_must_be_there_and_is_told(trained, phantom, room, flag):
    run = copy_run(trained, room / "run")
    refused = call(*training(phantom, run, flag, room / "gone.pth"))
    assert_refused(refused, f"{room / 'gone.pth'}: no such checkpoint; check the path")
    outcome = call(*training(phantom, run, flag, trained / "best.pth"))
    assert outcome.code == 0, outcome.err
    warning = f"warning: {trained / 'best.pth'} is not used: resuming from this run's own {run / 'checkpoint.pth'}"
    assert warning in outcome.out
    assert warning in (run / "info.txt").read_text()
    assert len(rows(run, "train")) == len(rows(trained, "train"))


def test_of_two_checkpoints_that_are_named_the_second_is_told_too(trained, phantom, room):
    flags = ("--resume", trained / "checkpoint.pth", "--pretrain_model_path", trained / "best.pth")
    outcome = call(*training(phantom, room / "run", *flags))
    assert outcome.code == 0, outcome.err
    assert f"warning: {trained / 'best.pth'} is not used: resuming from {trained / 'checkpoint.pth'}" in outcome.out


def test_its_own_checkpoint_by_name_is_no_warning(trained, phantom, room):
    run = copy_run(trained, room / "run")
    outcome = call(*training(phantom, run, "--resume", run / "checkpoint.pth"))
    assert outcome.code == 0, outcome.err
    assert "is not used" not in outcome.out
