import json
import re

import pytest
import torch

from util.detection.batch import Batch, Window
from util.distributed.collectives import ProcessInfo
from util.runlog.class_skill import FocalSettings, best_constant_loss
from util.runlog.run_log import RunLog
from util.runlog.step_statistics import row_metrics
from util.runlog.training_log import CONSOLE_ROWS, TrainingLog, peak_memory_mb

CPU = torch.device("cpu")
ALONE = ProcessInfo(0, 1, 0)
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


def test_a_resumed_log_writes_the_same_rows(tmp_path, monkeypatch):
    """Its state passes through plain values, as in a checkpoint."""
    now = [0.0]
    monkeypatch.setattr("util.runlog.training_log.time.monotonic", lambda: now[0])
    monkeypatch.setattr("util.runlog.training_log.peak_memory_mb", lambda _: 1.0)
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


def test_the_sums_of_two_ranks_are_resumed_on_one(tmp_path):
    def state(rank):
        log = TrainingLog(RunLog(None), 9, 9, CPU, ProcessInfo(rank, 2, rank), [0], FOCAL)
        log.start_epoch(0)
        log.add(Window([batch(rank + 1)]), 1.0, {"loss": torch.tensor(2.0 + rank)}, {}, step=1, rates=RATES)
        return log.state()[0]

    log = TrainingLog(RunLog(tmp_path), 2, 2, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0, 1, [state(0), state(1)])
    log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(3.5)}, {}, step=2, rates=RATES)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert (row["loss"], row["images"], row["boxes"]) == (3.0, 3, 4)  # the first step's loss is the mean of its ranks


def test_a_skipped_step_counts_as_skipped_and_nowhere_else(tmp_path, capsys):
    log = TrainingLog(RunLog(tmp_path), 1, 2, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0)
    log.add_skipped(step=1, rates=RATES)
    log.add(
        Window([batch(1)]), 1.0, {"loss": torch.tensor(3.0), "grad_norm": torch.tensor(1.0)}, {}, step=2, rates=RATES
    )
    log.finish_epoch(2)
    skipped, taken, epoch = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (skipped["skipped"], skipped["images"], "loss" in skipped) == (1, 0, False)
    assert (taken["skipped"], taken["loss"]) == (0, 3.0)
    assert (epoch["skipped"], epoch["loss"], epoch["images"]) == (1, 3.0, 1)
    assert "skipped: 1" in capsys.readouterr().out.splitlines()[0]


def test_an_epoch_in_which_no_step_was_taken_is_logged(tmp_path, capsys):
    log = TrainingLog(RunLog(tmp_path), 1, 1, CPU, ALONE, [0], FOCAL)
    log.start_epoch(0)
    log.add_skipped(step=1, rates=RATES)
    log.finish_epoch(1)
    assert "no step was taken; 0 images" in capsys.readouterr().out


def test_the_console_gets_a_line_per_row_and_one_per_epoch(tmp_path, capsys):
    run(tmp_path, [Window([batch(1)])] * 3, [1.0, 2.0, 3.0])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Epoch: [0]  [2/3]  eta: 0:00:0")
    assert "last 2 steps: 2 boxes on 2 images  loss: 1.5000 " in lines[0]
    assert "last 3 steps: 3 boxes on 3 images  loss: 2.0000 " in lines[1]
    assert lines[2].endswith("mean loss per step 2.0000; 3 images, 3 with boxes")
    assert (tmp_path / "info.txt").read_text().splitlines() == lines


def console(folder, windows, *, every=1):
    """What the lines of the console are of: steps, boxes and images."""
    run(folder, windows, [1.0] * len(windows), every=every)
    lines = re.findall(r"last (\d+) steps: (\d+) boxes on (\d+) images", (folder / "info.txt").read_text())
    return [tuple(map(int, found)) for found in lines]


def test_a_console_line_is_of_as_many_rows_as_hold_20_images_with_boxes(tmp_path):
    found = console(tmp_path, [Window([batch(2, 0, 0)])] * 60, every=2)
    assert found[:3] == [(2, 4, 6), (4, 8, 12), (6, 12, 18)]
    assert found[10:] == [(20, 40, 60)] * 20


def test_a_console_line_looks_back_until_there_was_a_box_but_not_for_ever(tmp_path):
    """One row of ten has an image with a box: the lines go back over 50 rows, the most there are."""
    found = console(tmp_path, [Window([batch(1 if i % 10 == 0 else 0)]) for i in range(80)])
    assert [boxes for _, boxes, _ in found[:2]] == [1, 1]
    assert found[CONSOLE_ROWS - 1 :] == [(CONSOLE_ROWS, 5, CONSOLE_ROWS)] * 31


def test_without_a_box_the_console_shows_no_loss_and_the_row_has_it(tmp_path, capsys):
    [row, _] = run(tmp_path, [Window([batch(0, 0)])], [0.0002])
    assert row["loss"] == pytest.approx(0.0002)
    assert "0 boxes on 2 images  loss: -  " in capsys.readouterr().out


def test_the_median_of_a_row_is_that_of_its_steps_and_an_epoch_has_none(tmp_path):
    rows = run(tmp_path, [Window([batch(1)])] * 5, [1.0, 2.0, 9.0, 4.0, 3.0], every=5)
    assert (rows[0]["loss_median"], "loss_median" in rows[1]) == (3.0, False)


def test_losses_and_the_best_constant_are_in_the_same_units_on_any_number_of_ranks(tmp_path, monkeypatch):
    """A rank that makes the constant's loss has skill 0, alone and as one of three that are alike."""
    boxes, slots = 2.0, 4 * FOCAL.num_queries
    for ranks in (1, 3):
        monkeypatch.setattr("util.runlog.meters.sum_over_ranks", lambda values, ranks=ranks: values * ranks)
        folder = tmp_path / str(ranks)
        folder.mkdir()
        log = TrainingLog(RunLog(folder), 1, 1, CPU, ProcessInfo(0, ranks, 0), [0], FOCAL)
        log.start_epoch(0)
        constant = best_constant_loss([boxes], slots, FOCAL) / boxes  # boxes of all ranks / ranks
        loss = {"loss": torch.tensor(1.0), "loss_ce": torch.tensor(constant)}
        log.add(Window([batch(2, 0, 0, 0)]), boxes, loss, {}, step=1, rates=RATES)
        row = json.loads((folder / "log.jsonl").read_text())
        assert (row["images"], row["boxes"]) == (4 * ranks, 2 * ranks)
        assert row["class_skill"] == pytest.approx(0, abs=1e-6)


def test_the_skill_is_the_same_when_a_run_is_resumed_with_another_number_of_ranks(tmp_path):
    def add(log, step, boxes, denominator):
        loss = {"loss": torch.tensor(1.0), "loss_ce": torch.tensor(0.5)}
        log.add(Window([batch(boxes, 0)]), denominator, loss, {}, step=step, rates=RATES)

    states = []
    for rank in range(2):
        log = TrainingLog(RunLog(None), 9, 9, CPU, ProcessInfo(rank, 2, rank), [0], FOCAL)
        log.start_epoch(0)
        add(log, 1, rank + 1, 3 / 2)
        states += log.state()
    alone = TrainingLog(RunLog(tmp_path), 1, 1, CPU, ALONE, [0], FOCAL)
    alone.start_epoch(0, 0, states)
    found = row_metrics(alone._epoch.read(ALONE, CPU), FOCAL)
    assert found["loss_ce_of_best_constant"] == pytest.approx(best_constant_loss([1], 4 * 5 / 3, FOCAL))


def test_sums_of_an_older_version_are_dropped_with_a_warning(tmp_path, capsys):
    log = TrainingLog(RunLog(tmp_path), 2, 3, CPU, ALONE, [0], FOCAL)
    old = {"losses": {"names": ["loss"], "total": [1.0], "steps": 1}, "counts": {"names": [], "total": [], "steps": 1}}
    log.start_epoch(0, 1, [{"recent": old, "epoch": old, "told": 0, "waited": 0.0, "seconds": 1.0, "seconds_since": 1}])
    assert "warning: the metrics of earlier steps" in capsys.readouterr().out
    for step in (2, 3):
        log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(3.0)}, {}, step=step, rates=RATES)
    log.finish_epoch(3)
    *_, epoch = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (epoch["kind"], epoch["steps"], epoch["loss"]) == ("epoch", 2, 3.0)


def test_watching_yields_every_batch_and_records_the_waiting(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.runlog.training_log.time.monotonic", lambda: now[0])

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


def test_other_ranks_count_steps_and_print_nothing(capsys):
    log = TrainingLog(RunLog(None), 1, 1, CPU, ProcessInfo(1, 1, 0), [0], FOCAL)
    log.start_epoch(0)
    log.add(Window([batch(1)]), 1.0, {"loss": torch.tensor(1.0)}, {}, step=1, rates=RATES)
    log.finish_epoch(1)
    assert capsys.readouterr().out == ""
    assert log.window == 1


def test_the_memory_of_this_process_is_in_megabytes():
    assert 50 < peak_memory_mb(CPU) < 10**6
