import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from util.base.errors import UserError
from util.runlog.run_log import RunLog
from util.runlog.tensorboard import FOLDER, ScalarWriter, load_summary_writer, scalars


class FakeSummaryWriter:
    """Records what TensorBoard would show: a writer created with `purge_step` drops the points from that step on."""

    shown: ClassVar[dict[str, list[tuple[int, str, float]]]] = {}  # folder: [(step, tag, value)]

    def __init__(self, *, log_dir, purge_step):
        Path(log_dir).mkdir(exist_ok=True)
        self.points = self.shown.setdefault(log_dir, [])
        self.points[:] = [point for point in self.points if point[0] < purge_step]
        self.waiting = []

    def add_scalar(self, tag, value, step):
        self.waiting.append((step, tag, value))

    def flush(self):
        self.points += self.waiting
        self.waiting = []


class FullDisk(FakeSummaryWriter):
    def flush(self):
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.setattr(FakeSummaryWriter, "shown", {})
    return FakeSummaryWriter.shown


def points(shown, folder):
    return shown[str(folder / FOLDER)]


def started(folder, factory=FakeSummaryWriter):
    log = RunLog(folder, factory)
    log.start_rows()
    return log


def same_rows(shown, folder):
    """The steps and losses of log.jsonl are those that TensorBoard shows."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    written = [(r["step"], f"{r['kind']}/loss", r["loss"]) for r in rows if r["kind"] != "start"]
    return sorted(points(shown, folder)) == sorted(written)


def test_rows_become_scalars_named_by_kind_and_column():
    row = {
        "kind": "train", "epoch": 3, "step": 20, "loss": 1.5, "boxes": 7, "class_error": None, "skipped": 0,
        "bad": float("nan"), "on": True, "weights": "ema", "boxes_by_category": {"1": 4, "2": 3}, "cut": [1, 2],
    }  # fmt: skip
    assert dict(scalars(row)) == {
        "train/loss": 1.5,
        "train/boxes": 7.0,
        "train/skipped": 0.0,
        "train/boxes_by_category/1": 4.0,
        "train/boxes_by_category/2": 3.0,
    }
    assert dict(scalars({"kind": "eval", "step": 1, "all/agnostic/AP": 0.5})) == {"eval/all/agnostic/AP": 0.5}


def test_what_is_logged_is_shown_at_once(tmp_path, shown):
    log = started(tmp_path)
    log.start(epoch=0, step=0, config={"lr": 1.0})
    log.row("train", epoch=0, step=10, loss=2.0)
    assert points(shown, tmp_path) == [(10, "train/loss", 2.0)]
    log.row("epoch", epoch=0, step=10, loss=3.0)
    log.row("nonfinite", epoch=0, step=10, terms=["loss"])
    assert points(shown, tmp_path)[1:] == [(10, "epoch/loss", 3.0)]


def test_a_resumed_run_shows_no_step_twice_and_loses_none(tmp_path, shown):
    """It is interrupted after rows that its checkpoint does not know, some of the checkpoint's own step."""
    log = started(tmp_path)
    log.row("train", epoch=0, step=10, loss=1.0)
    log.row("train", epoch=0, step=20, loss=2.0)
    log.row("epoch", epoch=0, step=20, loss=1.5)
    known = log.rows_on_disk()
    log.row("eval", epoch=0, step=20, loss=0.5)
    log.row("train", epoch=1, step=30, loss=3.0)
    again = RunLog(tmp_path, FakeSummaryWriter)
    before = len(points(shown, tmp_path))
    again.resume_rows(known)
    assert before == 5
    assert same_rows(shown, tmp_path)
    again.row("eval", epoch=0, step=20, loss=0.5)
    again.row("train", epoch=1, step=30, loss=3.5)
    assert same_rows(shown, tmp_path)
    assert len(points(shown, tmp_path)) == 5


def test_a_new_start_in_the_folder_shows_nothing_of_the_old_one(tmp_path, shown):
    started(tmp_path).row("train", epoch=0, step=10, loss=1.0)
    started(tmp_path).row("train", epoch=0, step=5, loss=2.0)
    assert points(shown, tmp_path) == [(5, "train/loss", 2.0)]


def test_a_run_to_which_tensorboard_comes_later_shows_all_of_it(tmp_path, shown):
    log = RunLog(tmp_path)
    log.start_rows()
    for step in (10, 20):
        log.row("train", epoch=0, step=step, loss=float(step))
    again = RunLog(tmp_path, FakeSummaryWriter)
    again.resume_rows(log.rows_on_disk())
    assert [step for step, _, _ in points(shown, tmp_path)] == [10, 20]
    assert same_rows(shown, tmp_path)


def test_separate_evaluations_are_not_shown(tmp_path, shown):
    log = started(tmp_path)
    log.row("train", epoch=0, step=10, loss=1.0)
    length = log.rows_on_disk()
    RunLog(tmp_path).row("eval", epoch=0, step=10, checkpoint="best.pth", loss=9.0)
    RunLog(tmp_path, FakeSummaryWriter).resume_rows(length)
    assert points(shown, tmp_path) == [(10, "train/loss", 1.0)]


def test_a_silent_rank_and_a_log_without_it_write_nothing(tmp_path, shown):
    for log in (RunLog(None, FakeSummaryWriter), RunLog(tmp_path)):
        log.start_rows()
        log.row("train", epoch=0, step=10, loss=1.0)
        log.resume_rows(0)
    assert not shown
    assert not (tmp_path / FOLDER).exists()


def test_a_full_disk_is_one_clear_error(tmp_path):
    writer = ScalarWriter(FullDisk, tmp_path / FOLDER, [])
    with pytest.raises(UserError, match=r"tensorboard: cannot be written .*No space left.*tensorboard=False"):
        writer.add({"kind": "train", "epoch": 0, "step": 1, "loss": 1.0})


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install tensorboard.*--options tensorboard=False"):
        load_summary_writer()


@pytest.mark.slow
def test_the_real_one_shows_each_step_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, load_summary_writer())
    log.start_rows()
    for step in (10, 20):
        log.row("train", epoch=0, step=step, loss=float(step))
    known = log.rows_on_disk()
    log.row("train", epoch=0, step=30, loss=99.0)
    again = RunLog(tmp_path, load_summary_writer())
    again.resume_rows(known)
    again.row("train", epoch=0, step=30, loss=30.0)
    reader = accumulator.EventAccumulator(str(tmp_path / FOLDER))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("train/loss")] == [(10, 10.0), (20, 20.0), (30, 30.0)]


def test_a_tag_of_a_category_holds_what_a_protocol_buffer_can_hold():
    row = {"kind": "eval", "step": 1, "all/per_class/a\n\x1b[31m\udcff/AP": 0.5}
    ((tag, value),) = scalars(row)
    assert (tag, value) == (r"eval/all/per_class/a\n\x1b[31m\udcff/AP", 0.5)
    tag.encode("utf-8")
