"""Checkpoints that are missing, torn, foreign, malicious or poisoned: one clear message each, and nothing lost."""

import argparse
import os

import pytest
import torch

from tests.helpers.training import CONFIG, assert_refused, call, copy_run, load, options, snapshot, training

pytest_plugins = ["tests.helpers.training_fixtures"]


def test_a_checkpoint_that_is_not_there(phantom, room):
    for flag in ("--resume", "--pretrain_model_path"):
        outcome = call(*training(phantom, room / "run", flag, room / "no.pth"))
        assert_refused(outcome, f"{room / 'no.pth'}: no such checkpoint; check the path")
    outcome = call("--eval", "--resume", room / "no.pth", "--data_path", phantom)
    assert_refused(outcome, f"{room / 'no.pth'}: no such checkpoint; check the path")
    assert not (room / "run").exists()


def test_an_evaluation_without_a_checkpoint(phantom, room):
    assert_refused(call("--eval", "--data_path", phantom), "evaluation needs --resume CHECKPOINT, or --output_dir")
    outcome = call("--eval", "--data_path", phantom, "--output_dir", room)
    assert_refused(outcome, f"{room / 'best.pth'}: no such checkpoint")
    outcome = call("--eval", "--data_path", phantom, "--output_dir", room, "--pretrain_model_path", room / "x.pth")
    assert_refused(outcome, "--pretrain_model_path is where a training starts; the checkpoint to evaluate is --resume")
    assert list(room.iterdir()) == []


def cut_short(path, source):
    path.write_bytes((source / "checkpoint.pth").read_bytes()[:100_000])


def write_text(path, _source):
    path.write_text("weights, honestly")


def write_nothing(path, _source):
    path.write_bytes(b"")


def write_a_list(path, _source):
    torch.save([1, 2, 3], path)


def write_other_keys(path, _source):
    torch.save({"state": 3, "meta": {}}, path)


class Payload:
    """What a malicious file would run."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


def write_malice(path, _source):
    torch.save({"model": {}, "extra": Payload()}, path)


@pytest.mark.parametrize(
    ("write", "phrase"),
    [
        (cut_short, "cannot be read as a checkpoint"),
        (write_text, "cannot be read as a checkpoint"),
        (write_nothing, "cannot be read as a checkpoint"),
        (write_malice, "cannot be read as a checkpoint"),
        (write_a_list, "holds a list, expected a dict with 'model'"),
        (write_other_keys, "model"),
    ],
)
def test_a_file_that_is_no_checkpoint(trained, phantom, room, monkeypatch, write, phrase):
    monkeypatch.chdir(room)
    path = room / "x.pth"
    write(path, trained)
    for flag in ("--resume", "--pretrain_model_path"):
        assert_refused(call(*training(phantom, room / "run", flag, path)), f"{path}: ", phrase)
    evaluation = ["--eval", "--resume", path, "--data_path", phantom, "-c", CONFIG, "--options", *options()]
    assert_refused(call(*evaluation), f"{path}: ", phrase)
    assert [p.name for p in room.iterdir()] == ["x.pth"]  # no run folder, and no file of the payload


def test_an_own_checkpoint_that_is_cut_short_is_not_written_over(trained, phantom, room):
    run = copy_run(trained, room / "run")
    (run / "checkpoint.pth").unlink()
    cut_short(run / "checkpoint.pth", trained)
    before = snapshot(run)
    assert_refused(call(*training(phantom, run)), f"{run / 'checkpoint.pth'}: cannot be read as a checkpoint")
    assert snapshot(run) == before


def test_the_folder_of_a_run_of_another_model_is_left_as_it_is(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = snapshot(run)
    outcome = call(*training(phantom, run, num_queries=30))
    assert_refused(
        outcome, f"{run / 'checkpoint.pth'}: is a checkpoint of another model (num_queries 20 instead of 30)"
    )
    assert "another --output_dir" in outcome.err
    assert snapshot(run) == before


def test_a_checkpoint_of_another_model_is_not_resumed(trained, phantom, room):
    outcome = call(*training(phantom, room / "run", "--resume", trained / "best.pth", dec_layers=1))
    assert_refused(outcome, f"{trained / 'best.pth'}: is a checkpoint of another model (dec_layers 3 instead of 1)")
    assert not (room / "run").exists()


def test_a_checkpoint_of_other_parameter_groups_is_not_resumed(trained, phantom, room):
    more = {"param_dict_type": "ddetr_in_mmdet", "epochs": 3}
    outcome = call(*training(phantom, room / "run", "--resume", trained / "checkpoint.pth", **more))
    assert_refused(outcome, f"{trained / 'checkpoint.pth'}: its optimizer has other groups", "param_dict_type")


def test_a_checkpoint_of_another_model_is_not_evaluated(trained, phantom, room):
    config = ["-c", CONFIG, "--options", *options(dec_layers=1)]
    where = ["--data_path", phantom, "--output_dir", room / "eval"]
    outcome = call("--eval", "--resume", trained / "best.pth", *where, *config)
    assert_refused(outcome, f"{trained / 'best.pth'}: is a checkpoint of another model", "unexpected")
    assert not (room / "eval").exists()


def test_weights_of_another_width_are_no_pretraining(trained, phantom, room):
    more = {"hidden_dim": 64, "backbone": "resnet18"}
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", trained / "best.pth", **more))
    assert_refused(outcome, f"{trained / 'best.pth'}: only", "is it a DINO of the same backbone and width?")


def test_an_official_checkpoint_with_more_than_a_namespace_is_refused(trained, phantom, room):
    content = {"model": load(trained / "best.pth")["model"], "args": argparse.Namespace(hook=Payload())}
    torch.save(content, room / "x.pth")
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", room / "x.pth"))
    assert_refused(outcome, f"{room / 'x.pth'}: cannot be read as a checkpoint")


@pytest.mark.parametrize("name", ["class_embed.0.bias", "transformer.level_embed", "backbone.0.body.conv1.weight"])
def test_poisoned_weights_are_refused(trained, phantom, room, name):
    content = load(trained / "checkpoint.pth")
    for tensor in (content["model"][name], content["ema"][name]):
        tensor.view(-1)[0] = float("nan")
    path = room / "x.pth"
    torch.save(content, path)
    for flag in ("--resume", "--pretrain_model_path"):
        outcome = call(*training(phantom, room / "run", flag, path, epochs=3))
        assert_refused(
            outcome, f"{path}: ", "tensors hold numbers that are not finite", name, "take an earlier checkpoint"
        )
    outcome = call("--eval", "--resume", path, "--data_path", phantom, "--output_dir", room / "run")
    assert_refused(outcome, f"{path}: ", "tensors hold numbers that are not finite", name)
    assert not (room / "run").exists()
