import json

import pytest
import torch

from util.batch import Batch, Window
from util.class_skill import FocalSettings
from util.distributed import Ranks
from util.logger import RunLog
from util.training_log import TrainingLog, peak_memory_mb

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0)
FOCAL = FocalSettings(0.25, 2.0, 5)
RATES = {"lr": 1e-4, "lr_backbone": 1e-5}


def batch(*counts, is_ghost=False):
    targets = [{"labels": torch.zeros(n), "boxes": torch.full((n, 4), 0.5)} for n in counts]
    return Batch(torch.zeros(len(counts), 3, 1, 1), torch.zeros(len(counts), 1, 1), targets, is_ghost)


def run(folder, windows, losses, *, every=2, epochs=1):
    log = TrainingLog(RunLog(folder), every, len(windows), CPU, ALONE, [0], FOCAL)
    step = 0
    for epoch in range(epochs):
        log.start_epoch(epoch)
        for window, loss in zip(windows, losses, strict=True):
            step += 1
            values = {"loss": torch.tensor(loss), "grad_norm": torch.tensor(1.0)}
            log.add(window, 1.0, values, {}, step=step, rates=RATES)
        log.finish_epoch(step)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_row_is_the_mean_since_the_last_one_and_the_epoch_the_mean_of_all(tmp_path):
    rows = run(tmp_path, [Window([batch(1)])] * 5, [1.0, 3.0, 5.0, 7.0, 9.0])
    assert [(r["kind"], r["step"], r["loss"], r["images"]) for r in rows] == [
        ("train", 2, 2.0, 2),
        ("train", 4, 6.0, 2),
        ("train", 5, 9.0, 1),
        ("epoch", 5, 5.0, 5),
    ]


def test_ghost_images_are_not_counted(tmp_path):
    windows = [Window([batch(2, 0), batch(3, is_ghost=True)]), Window([batch(4, is_ghost=True)])]
    *_, epoch = run(tmp_path, windows, [1.0, 1.0])
    assert (epoch["images"], epoch["images_with_boxes"], epoch["boxes"]) == (2, 1, 2)


def test_a_row_says_where_it_stands_and_how_fast(tmp_path):
    row, _ = run(tmp_path, [Window([batch(1, 0)])], [2.5])
    assert row["epoch"] == 0
    assert (row["lr"], row["lr_backbone"]) == (1e-4, 1e-5)
    assert row["grad_norm"] == 1.0
    assert row["max_mem_mb"] > 1
    assert row["time"] >= 0
    assert row["images_per_second"] > 0


def test_epochs_do_not_mix(tmp_path):
    rows = run(tmp_path, [Window([batch(1)])] * 3, [1.0, 2.0, 3.0], every=2, epochs=2)
    assert [r["loss"] for r in rows if r["kind"] == "epoch"] == [2.0, 2.0]
    # step 4 is the first of epoch 1: its row holds nothing of epoch 0
    assert [(r["step"], r["loss"]) for r in rows if r["kind"] == "train"] == [(2, 1.5), (3, 3.0), (4, 1.0), (6, 2.5)]


def test_a_log_that_goes_on_tells_the_same_rows(tmp_path, monkeypatch):
    """Its state passes through plain values, as in a checkpoint."""
    now = [0.0]
    monkeypatch.setattr("util.training_log.time.monotonic", lambda: now[0])
    losses = [0.1, 0.7, 0.2, 0.9, 0.4]
    for folder, cut in (("whole", None), ("parts", 3)):
        log = TrainingLog(RunLog(tmp_path / folder), 2, 5, CPU, ALONE, [0], FOCAL)
        (tmp_path / folder).mkdir()
        log.start_epoch(0)
        for step, loss in enumerate(losses, start=1):
            now[0] += 1.0
            log.add(Window([batch(step)]), 1.0, {"loss": torch.tensor(loss)}, {}, step=step, rates=RATES)
            if step == cut:
                state = json.loads(json.dumps(log.state()))
                now[0] += 1000.0  # no process was there
                log = TrainingLog(RunLog(tmp_path / folder), 2, 5, CPU, ALONE, [0], FOCAL)
                log.start_epoch(0, step, state)
        log.finish_epoch(5)
    whole, parts = ((tmp_path / folder / "log.jsonl").read_text() for folder in ("whole", "parts"))
    assert whole == parts


def test_the_figures_of_two_ranks_go_on_on_one(tmp_path):
    def state(rank):
        log = TrainingLog(RunLog(None), 9, 9, CPU, Ranks(rank, 2, rank), [0], FOCAL)
        log.start_epoch(0)
        log.add(Window([batch(rank + 1)]), 1.0, {"loss": torch.tensor(2.0 + rank)}, {}, step=1, rates=RATES)
        return log.state()[0]

    log = TrainingLog(RunLog(tmp_path), 2, 2, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0, 1, [state(0), state(1)])
    log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(3.5)}, {}, step=2, rates=RATES)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert (row["loss"], row["images"], row["boxes"]) == (3.0, 3, 4)  # the first step's loss is the mean of its ranks


def test_a_step_that_was_left_out_counts_as_skipped_and_nowhere_else(tmp_path, capsys):
    log = TrainingLog(RunLog(tmp_path), 1, 2, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0)
    log.leave_out(step=1, rates=RATES)
    log.add(
        Window([batch(1)]), 1.0, {"loss": torch.tensor(3.0), "grad_norm": torch.tensor(1.0)}, {}, step=2, rates=RATES
    )
    log.finish_epoch(2)
    left_out, taken, epoch = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (left_out["skipped"], left_out["images"], "loss" in left_out) == (1, 0, False)
    assert (taken["skipped"], taken["loss"]) == (0, 3.0)
    assert (epoch["skipped"], epoch["loss"], epoch["images"]) == (1, 3.0, 1)
    assert "skipped: 1" in capsys.readouterr().out.splitlines()[0]


def test_an_epoch_in_which_no_step_was_taken_is_told(tmp_path, capsys):
    log = TrainingLog(RunLog(tmp_path), 1, 1, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0)
    log.leave_out(step=1, rates=RATES)
    log.finish_epoch(1)
    assert "no step was taken; 0 images" in capsys.readouterr().out


def test_the_console_gets_a_line_per_row_and_one_per_epoch(tmp_path, capsys):
    run(tmp_path, [Window([batch(1)])] * 3, [1.0, 2.0, 3.0])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Epoch: [0]  [2/3]  eta: 0:00:0")
    assert "loss: 1.5000 (1.5000)" in lines[0]
    assert "loss: 3.0000 (2.0000)" in lines[1]
    assert lines[2].endswith("mean loss per step 2.0000; 3 images, 3 with boxes")
    assert (tmp_path / "info.txt").read_text().splitlines() == lines


def test_watching_hands_on_every_batch_and_notes_the_waiting(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.training_log.time.monotonic", lambda: now[0])

    def slow():
        for i in range(3):
            now[0] += 2.0
            yield i

    log = TrainingLog(RunLog(tmp_path), 3, 3, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0)
    for step, _ in enumerate(log.watch(slow()), start=1):
        now[0] += 1.0
        log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(1.0)}, {}, step=step, rates=RATES) if step < 3 else None
    log.add(
        Window([batch(1)]), 1.0, {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)}, {}, step=3, rates=RATES
    )
    [row] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["data"] == pytest.approx(2.0)
    assert row["time"] == pytest.approx(3.0)


def test_other_ranks_keep_step_in_silence(capsys):
    log = TrainingLog(RunLog(None), 1, 1, CPU, Ranks(1, 1, 0), [0], FOCAL)
    log.start_epoch(0)
    log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(1.0)}, {}, step=1, rates=RATES)
    log.finish_epoch(1)
    assert capsys.readouterr().out == ""
    assert log.window == 1


def test_the_memory_of_this_process_is_in_megabytes():
    assert 50 < peak_memory_mb(CPU) < 10**6
