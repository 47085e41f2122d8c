"""How a run begins: from its own checkpoint, from another one, from pretrained weights, ours or official."""

import argparse
import re

import pytest
import torch
from end_to_end import (
    CONFIG,
    assert_same_state,
    call,
    copy_run,
    figures,
    load,
    options,
    rows,
    snapshot,
    training,
)

import main
from util.config import load_config

pytest_plugins = ["end_to_end_fixtures"]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(trained, phantom, room, monkeypatch):
    command, follow = training(phantom, room / "run"), main.follow

    def interrupt(run, *rest):
        if run.state.step == 4:  # in the middle of epoch 1, and no checkpoint since its start
            raise KeyboardInterrupt
        follow(run, *rest)

    monkeypatch.setattr(main, "follow", interrupt)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (
        130,
        "error: interrupted; the same command goes on from what was saved\n",
    )
    assert load(room / "run/checkpoint.pth")["epoch"] == 1
    monkeypatch.undo()
    outcome = call(*command)
    assert outcome.code == 0
    assert f"start: going on from this run's own {room / 'run/checkpoint.pth'}, at epoch 1, step 3" in outcome.out
    assert_same_state(load(room / "run/checkpoint.pth"), load(trained / "checkpoint.pth"))
    assert figures(room / "run") == figures(trained)


def test_a_run_resumes_from_a_checkpoint_of_another_folder(trained, phantom, room):
    outcome = call(*training(phantom, room / "longer", "--resume", trained / "checkpoint.pth", epochs=3))
    assert outcome.code == 0, outcome.err
    assert f"start: going on from {trained / 'checkpoint.pth'}, at epoch 2, step 6" in outcome.out
    assert [row["step"] for row in rows(room / "longer", "train")] == [7, 8, 9]


def test_a_resumed_run_obeys_the_rates_of_its_config(trained, phantom, room):
    changes = {"epochs": 3, "lr": 5e-4, "lr_backbone": 0.0, "lr_drop": [], "warmup_steps": 0, "weight_decay": 0.5}
    assert call(*training(phantom, room / "run", "--resume", trained / "checkpoint.pth", **changes)).code == 0
    assert {(row["lr"], row["lr_backbone"]) for row in rows(room / "run", "train")} == {(5e-4, 0.0)}
    groups = load(room / "run/checkpoint.pth")["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_a_finished_run_that_is_started_again_says_so_and_changes_nothing(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = snapshot(run)
    values = load_config(run / "config.py")
    outcome = call(*training(phantom, run))
    assert (outcome.code, outcome.err) == (0, "")
    assert "training is finished: 2 epochs, 6 optimizer steps" in outcome.out
    assert load_config(run / "config.py") == values
    changed = {name for name, content in snapshot(run).items() if before[name] != content}
    assert changed == {"info.txt"}


def test_pretrained_weights_of_other_classes_are_adapted_and_reported(trained, phantom, room):
    more = {"num_classes": 6, "dn_labelbook_size": 6, "epochs": 1, "lr_drop": []}
    outcome = call(*training(phantom, room / "tuned", "--pretrain_model_path", trained / "best.pth", **more))
    assert outcome.code == 0, outcome.err
    told = next(line for line in outcome.out.splitlines() if line.startswith("start: "))
    assert f"weights from {trained / 'best.pth'}, everything else new" in told
    assert "class_embed.0.weight (4 x 32 -> 6 x 32): new" in told
    assert re.search(r"loaded \d{3}; \d+ adapted: .*; 0 missing, left as initialised; 0 unexpected, left out", told)
    assert rows(room / "tuned", "train")[0]["step"] == 1
    assert load(room / "tuned/checkpoint.pth")["model"]["class_embed.0.weight"].shape == (6, 32)


@pytest.fixture
def official(trained, room):
    """A checkpoint as the official code writes it: no config of ours, and a Namespace."""
    content = load(trained / "checkpoint.pth")
    args = argparse.Namespace(lr=1e-4, backbone="resnet50", options={"num_queries": 20}, lr_drop_list=[33, 45])
    scheduler = {"step_size": 11, "gamma": 0.1, "_last_lr": [1e-4, 1e-5]}
    weights = {f"module.{name}": tensor for name, tensor in content["ema"].items()}
    path = room / "official.pth"
    parts = {"model": weights, "optimizer": content["optimizer"], "lr_scheduler": scheduler, "epoch": 11, "args": args}
    torch.save(parts, path)
    return path


def test_an_official_checkpoint_is_evaluated_with_a_config(official, trained, phantom, room):
    where = ["--data_path", phantom, "--output_dir", room / "eval"]
    refused = call("--eval", "--resume", official, *where)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"{official}: holds no config, as official checkpoints do not; give --config_file" in refused.err
    outcome = call("--eval", "--resume", official, *where, "-c", CONFIG, "--options", *options())
    assert outcome.code == 0, outcome.err
    assert (room / "eval/detections.json.gz").read_bytes() == (trained / "detections.json.gz").read_bytes()
    assert rows(room / "eval", "eval")[0]["weights"] == "model"


def test_an_official_checkpoint_serves_as_pretraining_but_cannot_be_resumed(official, phantom, room):
    changes = {"epochs": 1, "lr_drop": []}
    outcome = call(*training(phantom, room / "tuned", "--pretrain_model_path", official, **changes))
    assert outcome.code == 0, outcome.err
    assert "0 adapted; 0 missing, left as initialised; 0 unexpected, left out" in outcome.out
    refused = call(*training(phantom, room / "resumed", "--resume", official, **changes))
    assert refused.code == 2
    assert (
        "cannot be resumed, it lacks best, collected, config, cut, judged, operating_point, rows, skipped, step, "
        "window; use --pretrain_model_path" in refused.err
    )
    assert not (room / "resumed").exists()
