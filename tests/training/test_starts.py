"""How a run begins: from its own checkpoint, from another one, from pretrained weights, ours or official."""

import argparse
import re
from pathlib import Path

import pytest
import torch

import main
from tests.helpers.networks.foreign_names import as_mmdetection
from tests.helpers.training import (
    CONFIG,
    assert_refused,
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
from util.base.errors import UserError
from util.config import load_config
from util.training.checkpoints.checkpoint import copy_best
from util.training.checkpoints.start import choose_start

pytest_plugins = ["tests.helpers.training_fixtures"]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(trained, phantom, room, monkeypatch):
    command, after_step = training(phantom, room / "run"), main.after_step

    def interrupt(run, *rest):
        if run.state.step == 4:  # in the middle of epoch 1, and no checkpoint since its start
            raise KeyboardInterrupt
        after_step(run, *rest)

    monkeypatch.setattr(main, "after_step", interrupt)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (
        130,
        "error: interrupted; the same command resumes from what was saved, if anything was\n",
    )
    assert load(room / "run/checkpoint.pth")["epoch"] == 1
    monkeypatch.undo()
    outcome = call(*command)
    assert outcome.code == 0
    assert f"start: resuming from this run's own {room / 'run/checkpoint.pth'}, at epoch 1, step 3" in outcome.out
    assert_same_state(load(room / "run/checkpoint.pth"), load(trained / "checkpoint.pth"))
    assert figures(room / "run") == figures(trained)


def test_a_run_resumes_from_a_checkpoint_of_another_folder(trained, phantom, room):
    outcome = call(*training(phantom, room / "longer", "--resume", trained / "checkpoint.pth", epochs=3))
    assert outcome.code == 0, outcome.err
    assert f"start: resuming from {trained / 'checkpoint.pth'}, at epoch 2, step 6" in outcome.out
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


RENAME = "rename checkpoint.{}.pth to checkpoint.pth to resume from there"
RESUME = "resume from it by --resume {}/{} --output_dir logs/NEW"


@pytest.mark.parametrize("resume", [None, "old/checkpoint.pth"])
@pytest.mark.parametrize(
    ("names", "way_on"),
    [
        (["checkpoint.1.pth"], RENAME.format(1)),
        (["checkpoint.10.pth", "checkpoint.2.pth", "best.pth"], RENAME.format(2)),
        (["best.pth"], RESUME.format("run", "best.pth")),
        (["best.pth", "checkpoint0010.pth"], RESUME.format("run", "best.pth")),
        (
            ["checkpoint0010.pth", "checkpoint0020.pth", "checkpoint9999.pth"],
            RESUME.format("run", "checkpoint9999.pth"),
        ),
        (["checkpoint12345.pth"], RESUME.format("run", "checkpoint12345.pth")),
    ],
)
def test_no_training_begins_where_an_earlier_one_left_checkpoints_without_the_newest(
    tmp_path, monkeypatch, names, way_on, resume
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "old").mkdir()
    for name in names:
        (tmp_path / "run" / name).write_text(name)
    (tmp_path / "old/best.pth").write_text("another")
    where, resume = Path("run"), resume and Path(resume)
    for pretrain in (None, Path("pretrained.pth")):
        with pytest.raises(UserError, match=re.escape(way_on)) as caught:
            choose_start(where, resume, pretrain)
        assert str(caught.value).startswith("run: has ")
        assert str(caught.value).endswith(", or choose another --output_dir")
    (tmp_path / "run/checkpoint.pth").touch()
    assert choose_start(where, resume, None).kind == "own"


def test_a_checkpoint_of_the_folder_can_be_named_as_the_start_unless_renaming_it_is_better(tmp_path):
    (tmp_path / "best.pth").touch()
    assert choose_start(tmp_path, tmp_path / "best.pth", None).kind == "resume"
    (tmp_path / "checkpoint.1.pth").touch()
    for name in ("best.pth", "checkpoint.1.pth"):
        with pytest.raises(UserError, match=RENAME.format(1)):
            choose_start(tmp_path, tmp_path / name, None)


@pytest.mark.parametrize("names", [[], ["nonfinite.pth", "log.jsonl", "best.pth.bak", "checkpoint.x.pth", "plots"]])
def test_other_files_are_no_obstacle_to_a_new_training(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    assert choose_start(tmp_path, None, None).kind == "scratch"
    assert choose_start(tmp_path / "not there", None, None).kind == "scratch"


@pytest.mark.parametrize("flags", [[], ["resume"], ["pretrain"]])
def test_a_checkpoint_that_is_no_file_is_not_taken_for_a_missing_one(tmp_path, flags):
    given = [tmp_path / "given.pth" if flag in flags else None for flag in ("resume", "pretrain")]
    own = tmp_path / "checkpoint.pth"
    own.symlink_to(tmp_path / "moved/checkpoint.pth")
    with pytest.raises(UserError, match=f"is a link to {tmp_path}/moved/checkpoint.pth, which is not there"):
        choose_start(tmp_path, *given)
    own.unlink()
    own.mkdir()
    with pytest.raises(UserError, match=r"checkpoint\.pth: is no file"):
        choose_start(tmp_path, *given)


@pytest.mark.parametrize("has_links", [True, False])
def test_the_best_checkpoint_that_was_taken_along_does_not_block_the_same_command(tmp_path, monkeypatch, has_links):
    def no_links(*_):
        raise PermissionError

    if not has_links:
        monkeypatch.setattr("os.link", no_links)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "best.pth").write_text("the best")
    resume = old / "checkpoint.pth"
    assert copy_best(resume, new)
    assert (old / "best.pth").samefile(new / "best.pth") == has_links
    assert choose_start(new, resume, None).kind == "resume"
    with pytest.raises(UserError):
        choose_start(new, None, None)
    (new / "best.pth").unlink()
    (new / "best.pth").write_text("our best")
    with pytest.raises(UserError, match="of an earlier training"):
        choose_start(new, resume, None)


def test_a_run_that_has_lost_its_checkpoint_is_left_as_it_is(trained, phantom, room):
    run = copy_run(trained, room / "run")
    (run / "checkpoint.pth").unlink()
    before = snapshot(run)
    for more in ([], ["--resume", trained / "checkpoint.pth"], ["--pretrain_model_path", trained / "best.pth"]):
        assert_refused(call(*training(phantom, run, *more)), f"{run}: has checkpoint.1.pth, best.pth", RENAME.format(1))
    assert snapshot(run) == before
    (run / "checkpoint.1.pth").rename(run / "checkpoint.pth")
    assert call(*training(phantom, run)).code == 0


def test_a_start_that_was_killed_before_its_first_checkpoint_is_repeated(trained, phantom, room, monkeypatch):
    command = training(phantom, room / "run", "--resume", trained / "checkpoint.pth", epochs=3)

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "build_train_loader", die)
    assert call(*command).code == 130
    assert {path.name for path in (room / "run").glob("*.pth")} == {"best.pth"}
    monkeypatch.undo()
    assert call(*command).code == 0
    assert [row["step"] for row in rows(room / "run", "train")] == [7, 8, 9]
    assert (room / "run/best.pth").exists()


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


def test_a_short_training_starts_from_the_weights_of_another_program(trained, phantom, room):
    content = load(trained / "best.pth")
    torch.save({"state_dict": as_mmdetection(content["model"]), "meta": {}}, room / "theirs.pth")
    command = training(phantom, room / "run", "--pretrain_model_path", room / "theirs.pth", epochs=1)
    outcome = call(*command)
    assert (outcome.code, outcome.err) == (0, "")
    assert "warning: lr_drop [1] never happens: training ends after epoch 0" in outcome.out
    start = next(line for line in outcome.out.splitlines() if line.startswith("start: "))
    assert "a checkpoint of MMDetection" in start
    assert "0 missing, left as initialised; 0 unexpected, left out" in start
