"""A run that was cut off anywhere goes on as if it had not been, also when its steps are cut in another way."""

import json
import math
import os
import shutil
from itertools import pairwise

import pytest
import torch

import main
from tests.helpers.training import assert_refused, assert_same_state, call, copy_run, figures, load, rows, training
from util.base.files import keep_copy
from util.training.run_folder import SaveClock

pytest_plugins = ["tests.helpers.training_fixtures"]

EVERY_STEP = {"checkpoint_every_minutes": 1e-9, "log_every": 2}  # rows lie across the cuts


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    """A run that was not cut off, and its arguments."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert call(*training(phantom, folder, **EVERY_STEP)).code == 0
    yield folder
    shutil.rmtree(folder)


def cut_off(monkeypatch, command, step):
    """Run a training that dies after `step` steps, and what they have saved."""
    follow = main.follow

    def die(run, *rest):
        follow(run, *rest)
        if run.state.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(main, "follow", die)
        assert call(*command).code == 130


@pytest.mark.parametrize("step", [1, 3, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 4, 6))])
def test_a_run_cut_off_after_any_step_equals_one_that_was_not(whole, phantom, room, monkeypatch, step):
    command = training(phantom, room / "run", **EVERY_STEP)
    cut_off(monkeypatch, command, step)
    kept = load(room / "run/checkpoint.pth")
    assert kept["step"] == step
    assert kept["epoch"] * 3 + kept["window"] == step
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    assert f"step {step}" in next(line for line in outcome.out.splitlines() if line.startswith("start: "))
    assert_same_state(load(room / "run/checkpoint.pth"), load(whole / "checkpoint.pth"))
    assert figures(room / "run") == figures(whole)


@pytest.mark.slow
def test_a_run_cut_off_many_times_loses_no_row_and_tells_none_twice(whole, phantom, room, monkeypatch):
    command = training(phantom, room / "run", **EVERY_STEP)
    for step in (1, 2, 4, 5):
        cut_off(monkeypatch, command, step)
    with (room / "run/log.jsonl").open("a") as log:
        log.write('{"kind": "train", "epo')  # a row that a power failure has torn
    assert call(*command).code == 0
    assert figures(room / "run") == figures(whole)
    starts = rows(room / "run", "start")  # each stands before the rows of its steps
    assert [(row["epoch"], row["step"]) for row in starts] == [(0, 0), (0, 1), (0, 2), (1, 4), (1, 5)]
    assert all({**row, "epoch": 0, "step": 0} == rows(whole, "start")[0] for row in starts)


def test_a_start_says_what_is_trained_on_what(whole):
    [row] = rows(whole, "start")
    assert (row["schema"], row["epoch"], row["step"], row["cut"]) == (2, 0, 0, [2, 2, 1])
    assert (row["config"]["focal_alpha"], row["category_ids"]) == (0.75, [1, 2, 3])
    assert [(row[which]["list"], row[which]["images"]) for which in ("train", "val")] == [
        ("TBX11K_train", 12),
        ("TBX11K_val", 6),
    ]
    assert all(trained == total for trained, total in row["trainable"].values())
    first = (whole / "log.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == row


def test_rows_that_were_lost_are_told(phantom, room, monkeypatch):
    command = training(phantom, room / "run", **EVERY_STEP)
    cut_off(monkeypatch, command, 4)
    (room / "run/log.jsonl").write_text("")
    assert "warning: log.jsonl has lost" in call(*command).out


def test_rows_of_a_start_that_left_no_checkpoint_are_set_aside(whole, phantom, room, monkeypatch):
    command = training(phantom, room / "run", log_every=2)
    cut_off(monkeypatch, command, 2)
    assert not (room / "run/checkpoint.pth").exists()
    assert "are now in log.1.jsonl" in call(*command).out
    assert figures(room / "run") == figures(whole)
    aside = (room / "run/log.1.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in aside] == ["start", "train"]


SAMPLED = {
    "positive_fraction": 0.75,
    "data_aug_rotate": 8,
    "data_aug_clahe": 0.5,
    "data_aug_noise": 5,
    "data_aug_erase": 0.5,
    "data_aug_mosaic": 0.5,
    "data_aug_copy_paste": 0.5,
    "data_aug_mix_end_epoch": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SAMPLED, {"repeat_threshold": 0.9}], ids=["share", "repeat"])
def test_a_run_with_sampling_and_augmentation_goes_on_too_also_cut_in_another_way(phantom, room, monkeypatch, changes):
    knobs = {**EVERY_STEP, **changes}
    whole = call(*training(phantom, room / "whole", **knobs))
    assert whole.code == 0, whole.err
    assert "an epoch: " in whole.out
    last = load(room / "whole/checkpoint.pth")
    for step in (2, last["step"] - 1):
        command = training(phantom, room / f"run{step}", **knobs)
        cut_off(monkeypatch, command, step)
        assert call(*command).code == 0
        assert_same_state(load(room / f"run{step}/checkpoint.pth"), last)
        assert figures(room / f"run{step}") == figures(room / "whole")
    other_cut = {"batch_size": 1, "gradient_accumulation_steps": 4}
    cut_off(monkeypatch, training(phantom, room / "other", **knobs), 2)
    assert call(*training(phantom, room / "other", **knobs, **other_cut)).code == 0
    for ours, theirs in zip(rows(room / "other", "train"), rows(room / "whole", "train"), strict=True):
        assert (ours["step"], ours["images"], ours["boxes"]) == (theirs["step"], theirs["images"], theirs["boxes"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


WITH_A_MEMORY = {  # of the boxes of the steps before, of where the training is, and one more head with moments
    **{"num_boxes_norm": "ema", "num_boxes_momentum": 0.5, "lr_schedule": "flat_cosine", "lr_flat_share": 0.25},
    **{"image_head": True, "image_loss_coef": 0.1, "warmup_steps": 1},
}


def test_a_run_with_an_average_of_boxes_a_cosine_and_an_image_head_goes_on_too(phantom, room, monkeypatch):
    knobs = {**EVERY_STEP, **WITH_A_MEMORY}
    assert call(*training(phantom, room / "whole", **knobs)).code == 0
    cut_off(monkeypatch, training(phantom, room / "run", **knobs), 4)
    kept = load(room / "run/checkpoint.pth")["denominator"]["boxes_per_step"]
    assert call(*training(phantom, room / "run", **knobs)).code == 0
    whole = load(room / "whole/checkpoint.pth")
    assert whole["denominator"]["boxes_per_step"] != kept
    assert_same_state(load(room / "run/checkpoint.pth"), whole)
    assert figures(room / "run") == figures(room / "whole")
    rates = [row["lr"] for row in rows(room / "whole", "train")]
    assert all(b < a for a, b in pairwise(rates)), rates


@pytest.mark.slow
def test_inside_an_epoch_the_sampling_must_stay(phantom, room, monkeypatch):
    cut_off(monkeypatch, training(phantom, room / "run", **EVERY_STEP), 2)
    command = training(phantom, room / "run", **EVERY_STEP, positive_fraction=0.5)
    assert_refused(call(*command), "of which it has done 2 steps", "positive_fraction 0.0 instead of 0.5")


@pytest.mark.parametrize(
    "cut", [{"batch_size": 4, "gradient_accumulation_steps": 1}, {"batch_size": 1, "gradient_accumulation_steps": 4}]
)
def test_a_run_goes_on_with_its_steps_cut_in_another_way(whole, phantom, room, monkeypatch, cut):
    cut_off(monkeypatch, training(phantom, room / "run", **EVERY_STEP), 4)
    outcome = call(*training(phantom, room / "run", **EVERY_STEP, **cut))
    assert outcome.code == 0, outcome.err
    before = "images per step were 2 per rank x 2 accumulation x 1 ranks = 4"
    assert f"{before}, now {cut['batch_size']} per rank x" in outcome.out
    theirs = rows(whole, "train")
    for ours, their in zip(rows(room / "run", "train"), theirs, strict=True):
        assert (ours["step"], ours["images"], ours["boxes"]) == (their["step"], their["images"], their["boxes"])
        assert ours["loss"] == pytest.approx(their["loss"], rel=1e-3)


def test_a_resume_under_another_attention_backend_is_logged(trained, phantom, room):
    content = load(trained / "checkpoint.pth")
    recorded = content.pop("attention")
    assert recorded in ("cpp", "sparse")
    torch.save(content, room / "older.pth")  # as a version wrote it that did not record it
    for path, before in ((trained / "checkpoint.pth", recorded), (room / "older.pth", "sparse")):
        command = training(phantom, room / path.stem, "--resume", path, epochs=3, attn_backend="torch")
        outcome = call(*command)
        assert outcome.code == 0, outcome.err
        assert f"deformable attention was computed by {before}, now by torch: the same to rounding" in outcome.out


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"batch_size": 1}, "Set gradient_accumulation_steps=4"),
        ({"gradient_accumulation_steps": 1}, "Set gradient_accumulation_steps=2"),
        ({"batch_size": 3}, "Choose batch_size, gradient_accumulation_steps and ranks with the product 4"),
    ],
)
def test_another_number_of_images_per_step_is_refused_with_the_arithmetic(trained, phantom, room, changes, mend):
    new = {"batch_size": 2, "gradient_accumulation_steps": 2, **changes}
    product = f"{new['batch_size']} per rank x {new['gradient_accumulation_steps']} accumulation x 1 ranks = "
    product += str(math.prod(new.values()))
    command = training(phantom, room / "run", "--resume", trained / "checkpoint.pth", epochs=3, **changes)
    assert_refused(
        call(*command), "was trained with 2 per rank x 2 accumulation x 1 ranks = 4 images per step", product, mend
    )
    assert not (room / "run").exists()


def test_inside_an_epoch_the_seed_and_the_images_must_stay(phantom, room, monkeypatch):
    cut_off(monkeypatch, training(phantom, room / "run", **EVERY_STEP), 2)
    command = training(phantom, room / "run", **EVERY_STEP, seed=7)
    assert_refused(call(*command), "stands inside epoch 0, of which it has done 2 steps", "seed 42 instead of 7")


def test_between_epochs_the_seed_may_change_and_that_is_told(trained, phantom, room):
    command = training(phantom, room / "run", "--resume", trained / "checkpoint.pth", epochs=3, seed=7)
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    assert "changed since: epochs 2 -> 3, seed 42 -> 7" in outcome.out


def test_the_last_checkpoints_are_kept(phantom, room):
    changes = {**EVERY_STEP, "keep_last_checkpoints": 3}
    assert call(*training(phantom, room / "run", **changes)).code == 0
    steps = [load(room / "run" / name)["step"] for name in ("checkpoint.pth", "checkpoint.1.pth", "checkpoint.2.pth")]
    assert steps == [6, 5, 4]
    assert not (room / "run/checkpoint.3.pth").exists()


def test_a_damaged_checkpoint_names_the_one_before_it_which_works(whole, phantom, room, monkeypatch):
    command = training(phantom, room / "run", **EVERY_STEP)
    cut_off(monkeypatch, command, 5)
    own, older = room / "run/checkpoint.pth", room / "run/checkpoint.1.pth"
    own.write_bytes(own.read_bytes()[:1000])
    assert_refused(call(*command), "cannot be read as a checkpoint", f"rename it to {own.name} to go on from there")
    older.replace(own)
    assert call(*command).code == 0
    assert figures(room / "run") == figures(whole)


def test_a_disk_without_hard_links_gets_copies(tmp_path, monkeypatch):
    monkeypatch.setattr("util.base.files.os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    (tmp_path / "a").write_text("whole")
    keep_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_checkpoint_is_due_by_the_clock_since_the_last_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.training.run_folder.time.monotonic", lambda: now[0])
    clock = SaveClock(2.0, saved=0.0)
    now[0] = 119.0
    assert not clock.is_due
    now[0] = 120.0
    assert clock.is_due
    assert clock.moves_on(5)
    assert not clock.is_due
    assert not clock.moves_on(5), "the same step again"


def test_without_an_interval_no_checkpoint_is_due(monkeypatch):
    clock = SaveClock(0.0)
    monkeypatch.setattr("util.training.run_folder.time.monotonic", lambda: 1e9)
    assert not clock.is_due


def test_rows_of_an_evaluation_by_a_command_of_its_own_stay(trained, phantom, room):
    run = copy_run(trained, room / "run")
    with (run / "log.jsonl").open("a") as log:  # older versions wrote it there
        log.write(json.dumps({**rows(run, "eval")[0], "checkpoint": str(run / "best.pth")}) + "\n")
    named = [row.get("checkpoint") for row in rows(run, "eval")]
    assert named == [None, None, str(run / "best.pth")]
    assert call(*training(phantom, run)).code == 0
    assert [row.get("checkpoint") for row in rows(run, "eval")] == named
    assert call(*training(phantom, run, epochs=3)).code == 0
    assert [row.get("checkpoint") for row in rows(run, "eval")] == [*named, None]


def test_the_best_checkpoint_comes_along_to_another_folder(trained, phantom, room):
    command = training(phantom, room / "run", "--resume", trained / "checkpoint.pth")
    assert call(*command).code == 0
    assert (room / "run/best.pth").read_bytes() == (trained / "best.pth").read_bytes()
    assert load(room / "run/best.pth")["best"]["epoch"] == 0


def test_without_the_best_checkpoint_nothing_is_called_best(trained, phantom, room):
    alone = room / "alone.pth"
    keep_copy(trained / "checkpoint.pth", alone)
    outcome = call(*training(phantom, room / "run", "--resume", alone))
    assert "no best epoch" in outcome.out


@pytest.mark.slow
def test_checkpoints_beyond_the_number_asked_for_go(phantom, room):
    assert call(*training(phantom, room / "run", **EVERY_STEP, keep_last_checkpoints=4)).code == 0
    assert (room / "run/checkpoint.3.pth").exists()
    assert call(*training(phantom, room / "run", **EVERY_STEP, keep_last_checkpoints=2, epochs=3)).code == 0
    names = sorted(path.name for path in (room / "run").glob("checkpoint*.pth"))
    assert names == ["checkpoint.1.pth", "checkpoint.pth"]


@pytest.mark.parametrize("is_of_this_id", [True, False])
def test_what_a_killed_process_left_of_a_second_name_does_not_disturb_and_goes(tmp_path, is_of_this_id):
    (tmp_path / "a").write_text("whole")
    half = tmp_path / f".b.{os.getpid() if is_of_this_id else 1}.part"
    half.write_text("ha")
    os.utime(half, (0, 0))
    keep_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
