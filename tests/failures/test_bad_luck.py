"""A full disk, exploding numbers, folders that cannot be written, ranks that disagree: what is whole stays whole."""

import json
import os
import resource
import signal
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import torch

import main
from tests.helpers.training import (
    ONE_EPOCH,
    ROOT,
    assert_refused,
    call,
    call_apart,
    copy_run,
    first_image,
    load,
    losses,
    rows,
    torchrun,
    training,
    truncate,
)
from util.base.errors import UserError
from util.base.files import WriteError
from util.runlog.run_log import RunLog

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.mark.parametrize("name", ["taken", "taken/run"])
def test_an_output_folder_that_cannot_be(phantom, room, name):
    (room / "taken").write_text("a file")
    assert_refused(call(*training(phantom, room / name)), f"{room / name}", "cannot be written", "another folder")
    assert (room / "taken").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(phantom, room):
    (room / "shut").mkdir(mode=0o500)
    assert_refused(call(*training(phantom, room / "shut/run")), "cannot be written (PermissionError")


def test_an_output_folder_inside_a_run_that_is_not_writable_keeps_the_old_report(trained, phantom, room):
    run = copy_run(trained, room / "run")
    command = ["--eval", "--output_dir", run, "--data_path", phantom]
    assert call(*command).code == 0
    folder = run / "eval_TBX11K_val"
    (folder / "info.txt").unlink()
    (folder / "info.txt").mkdir()
    reports = [(place / "report.json").read_bytes() for place in (run, folder)]
    assert_refused(call(*command), folder / "info.txt", "cannot be written")
    assert [(place / "report.json").read_bytes() for place in (run, folder)] == reports


def limit_file_size():
    """No file of more than 100 kB, as on a disk that is full: a checkpoint does not fit, the log does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def run_on_a_full_disk(call_it):
    """The outcome of a training whose checkpoints do not fit on the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        return call_it()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(trained, phantom, room, monkeypatch):
    run, command = room / "run", training(phantom, room / "run")
    train_one_epoch, epochs = main.train_one_epoch, []

    def stop_after_one(*args, **more):
        if epochs:
            raise KeyboardInterrupt
        epochs.append(train_one_epoch(*args, **more))

    monkeypatch.setattr(main, "train_one_epoch", stop_after_one)
    assert call(*command).code == 130
    monkeypatch.undo()
    before = (run / "checkpoint.pth").read_bytes()

    outcome = run_on_a_full_disk(partial(call, *command))
    assert_refused(outcome, "cannot be written", "the file that was there before is untouched", "Free some space")
    assert (run / "checkpoint.pth").read_bytes() == before
    assert not list(run.glob(".*")), "the torn file is gone"

    assert call(*command).code == 0
    assert losses(run)[-3:] == losses(trained)[-3:]
    ours, theirs = load(run / "checkpoint.pth")["ema"], load(trained / "checkpoint.pth")["ema"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_whose_disk_is_full_leaves_no_half_checkpoint_and_goes_on_when_there_is_room(phantom, room):
    run, command = room / "run", training(phantom, room / "run", **ONE_EPOCH)
    assert_refused(run_on_a_full_disk(partial(call, *command)), "checkpoint.pth: cannot be written")
    assert not list(run.glob("*.pth"))
    assert call(*command).code == 0
    assert {path.name for path in run.glob("*.pth")} == {"best.pth", "checkpoint.pth"}


@pytest.mark.slow
def test_an_epoch_that_was_trained_but_not_judged_is_judged_at_the_next_start(phantom, room, monkeypatch):
    """Trouble while judging must cost no training, and the best checkpoint must not be missed."""
    run, command = room / "run", training(phantom, room / "run", **ONE_EPOCH)
    with monkeypatch.context() as trouble:
        trouble.setattr(
            "util.training.evaluation.evaluate_tables",
            lambda *_, **__: (_ for _ in ()).throw(UserError("no judgement today")),
        )
        assert_refused(call(*command), "no judgement today")
    assert load(run / "checkpoint.pth")["epoch"] == 1
    assert call(*command).code == 0
    assert (len(rows(run, "epoch")), len(rows(run, "eval"))) == (1, 1)
    assert load(run / "best.pth")["judged"] == 1
    assert call(*command).code == 0
    assert len(rows(run, "eval")) == 1


def test_a_log_that_cannot_be_written_is_told(room):
    (room / "log.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"log\.jsonl: cannot be written"):
        RunLog(room).row("train", loss=1.0)


def test_numbers_that_explode_stop_the_training_before_they_are_saved(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = (run / "checkpoint.pth").read_bytes()
    wild = {"epochs": 4, "lr": 1e30, "lr_backbone": 1e30, "warmup_steps": 0, "clip_max_norm": 0.0}
    outcome = call(*training(phantom, run, **wild))
    assert_refused(outcome, "epoch 2, after step", "not finite", "Older checkpoints are untouched", code=1)
    assert (run / "checkpoint.pth").read_bytes() == before
    [account] = run.glob("nonfinite_epoch0002_window*.json")
    assert account.name in outcome.err
    told = json.loads(account.read_text())
    [images] = [[image["file"] for batch in rank for image in batch["images"]] for rank in told["ranks"]]
    assert len(images) == 4
    assert all((phantom / "imgs" / file).is_file() for file in images)
    again = call(*training(phantom, room / "again", "--resume", run / "nonfinite.pth", **wild))
    assert f"after step {told['step']}: not finite" in again.err, "the checkpoint kept repeats the step"


def spoil(monkeypatch, *steps):
    """Make the network predict NaN on the second micro-batch of these steps, counted from 0."""
    forward, calls = main.build_model, count()

    def build(*args):
        model, *rest = forward(*args)
        model.register_forward_hook(lambda _m, _a, out: poisoned(out) if next(calls) in wrong else out)
        return model, *rest

    wrong = {2 * step + 1 for step in steps}
    monkeypatch.setattr(main, "build_model", build)


def poisoned(outputs):
    """The same outputs with a NaN in them."""
    last = outputs.layers[-1]
    return replace(outputs, layers=[*outputs.layers[:-1], replace(last, logits=last.logits * torch.nan)])


def test_a_step_that_is_not_finite_is_skipped_as_often_as_allowed(phantom, room, monkeypatch):
    spoil(monkeypatch, 1)
    outcome = call(*training(phantom, room / "run", **ONE_EPOCH, skip_nonfinite_steps=1))
    assert outcome.code == 0, outcome.err
    assert "warning: epoch 0, after step 1: not finite: loss_ce nan, loss nan on " in outcome.out
    assert "Skipped, 1 of at most 1" in outcome.out
    skipped = [(row["step"], row["skipped"], row["images"]) for row in rows(room / "run", "train")]
    assert skipped == [(1, 0, 4), (2, 1, 0), (3, 0, 4)]
    assert load(room / "run/checkpoint.pth")["skipped"] == 1
    assert not (room / "run/nonfinite.pth").exists()


def test_one_more_than_allowed_stops_the_run(phantom, room, monkeypatch):
    spoil(monkeypatch, 0, 2)
    outcome = call(*training(phantom, room / "run", **ONE_EPOCH, skip_nonfinite_steps=1))
    assert_refused(outcome, "epoch 0, after step 2: not finite: loss_ce nan, loss nan on ", "nonfinite.pth", code=1)
    kept = load(room / "run/nonfinite.pth")
    assert (kept["window"], kept["skipped"]) == (2, 1), "before the step"


@pytest.mark.slow
def test_an_overflow_of_fp16_gradients_is_left_out_and_does_not_count(phantom, room):
    """The scaler's first scale of 65536 is too large for this network."""
    assert call(*training(phantom, room / "run", **ONE_EPOCH, amp="fp16")).code == 0
    overflows = sum(row["skipped"] for row in rows(room / "run", "train"))
    kept = load(room / "run/checkpoint.pth")
    assert overflows > 0
    assert (kept["skipped"], kept["scaler"]["scale"]) == (0, 2.0 ** (16 - overflows))


def test_an_overflow_that_a_lower_loss_scale_cannot_mend_stops_the_run(phantom, room, monkeypatch):
    monkeypatch.setattr("util.training.nonfinite.MIN_LOSS_SCALE", 2.0**16)
    outcome = call(*training(phantom, room / "run", **ONE_EPOCH, amp="fp16"))
    assert_refused(outcome, "all losses are finite, the gradient is not", code=1)


@pytest.mark.slow
def test_the_script_ends_with_the_code_and_the_message(phantom, room):
    outcome = call_apart("main.py", *training(phantom, room / "run", focal_alfa=1))
    assert_refused(outcome, "unknown key 'focal_alfa'")


@pytest.mark.slow
def test_an_ascii_terminal_takes_any_path(phantom, room):
    (room / "Daten ü").symlink_to(phantom)
    outcome = call_apart(ROOT / "main.py", *training("Daten ü", "Läufe", **ONE_EPOCH), cwd=room, env={"LC_ALL": "C"})
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.slow
def test_a_full_disk_in_a_process_of_its_own(phantom, room):
    command = ["main.py", *training(phantom, room / "run", **ONE_EPOCH)]
    assert_refused(call_apart(*command, preexec_fn=limit_file_size), "cannot be written", "Free some space")


@pytest.mark.slow
def test_two_ranks_tell_a_mistake_once(phantom, room):
    outcome = torchrun(2, *training(phantom, room / "run", focal_alfa=1))
    assert outcome.code != 0
    assert outcome.err.count("unknown key 'focal_alfa'") == 1
    assert "Traceback" not in outcome.err.split("torch/distributed")[0]


@pytest.mark.slow
def test_a_mistake_that_one_of_two_ranks_meets_is_told(data, room):
    truncate(first_image(data, "val"))
    outcome = torchrun(2, *training(data, room / "run", **ONE_EPOCH))
    assert outcome.code != 0
    assert outcome.err.count("1 of 6 images cannot be read") == 1
