"""Evaluations leave a training as it is, and each other."""

import json
import os
import signal

import pytest

import main
from tests.helpers.training import annotations, call, copy_run, load_script, rows, snapshot
from util.base.errors import UserError
from util.distributed.preemption import STOP

pytest_plugins = ["tests.helpers.training_fixtures"]
FAST = ["--options", "bootstrap_draws=0"]
RESULTS = ("report.json", "detections.json.gz", "truth.json.gz", "per_image.csv")


@pytest.fixture
def run(trained, room):
    """A copy of the finished training."""
    return copy_run(trained, room / "run")


def evaluated(folder):
    """What the report of a folder says it is of."""
    return json.loads((folder / "report.json").read_text())["evaluated"]


def evaluate(*arguments):
    """Evaluate on the CPU without intervals, which take most of the time."""
    outcome = call("--eval", "--device", "cpu", *arguments, *FAST)
    assert outcome.code == 0, outcome.err
    return outcome


def folders(run):
    return sorted(path.name for path in run.iterdir() if path.is_dir())


def without_last_image(data):
    """The list of the validation images becomes another one of the same name."""
    listed = json.loads(annotations(data, "val").read_text())
    gone = listed["images"].pop()["id"]
    listed["annotations"] = [box for box in listed["annotations"] if box["image_id"] != gone]
    annotations(data, "val").write_text(json.dumps(listed))


@pytest.mark.parametrize("where", ["beside the checkpoint", "in the run folder", "elsewhere"])
def test_evaluating_another_data_set_leaves_every_file_of_the_run(run, data, room, where):
    without_last_image(data)
    more = {"beside the checkpoint": [], "in the run folder": ["--output_dir", run]}
    before = snapshot(run)
    evaluate("--resume", run / "best.pth", "--data_path", data, *more.get(where, ["--output_dir", room / "e"]))
    folder = room / "e" if where == "elsewhere" else run / "eval_TBX11K_val"
    after = snapshot(run)
    assert {name: after[name] for name in before} == before
    assert {path.name for path in folder.iterdir()} == {"config.py", "info.txt", "log.jsonl", *RESULTS}
    assert [row["checkpoint"] for row in rows(folder, "eval")] == [str(run / "best.pth")]
    assert evaluated(run)["images"] == 6
    assert evaluated(folder)["images"] == 5


def test_a_report_says_what_was_evaluated(run, phantom):
    evaluate("--resume", run / "best.pth", "--data_path", phantom)
    facts, training = evaluated(run / "eval_TBX11K_val"), evaluated(run)
    assert facts["list"] == "TBX11K_val"
    assert facts["annotation_file"] == str(annotations(phantom, "val"))
    assert facts["image_folder"] == str(phantom / "imgs")
    [row] = rows(run / "eval_TBX11K_val", "eval")
    assert {name: facts[name] for name in ("checkpoint", "epoch", "step", "weights")} == {
        name: row[name] for name in ("checkpoint", "epoch", "step", "weights")
    }
    start = rows(run, "start")[0]["val"]
    counts = ("images", "images_with_boxes", "boxes", "boxes_by_category")
    assert {name: facts[name] for name in counts} == {name: start[name] for name in counts}
    assert "checkpoint" not in training
    same = ("list", "annotation_file", "image_folder", "ground_truth", *counts)
    assert {name: training[name] for name in same} == {name: facts[name] for name in same}


def test_paths_are_told_as_the_user_gave_them(run, phantom, monkeypatch):
    monkeypatch.chdir(run.parent)
    os.symlink(phantom, "data")
    evaluate("--resume", "run/best.pth", "--data_path", "data")
    facts = evaluated(run / "eval_TBX11K_val")
    assert (facts["checkpoint"], facts["image_folder"]) == ("run/best.pth", "data/imgs")
    assert facts["annotation_file"] == "data/annotations/json/TBX11K_val.json"


@pytest.mark.slow
def test_the_same_command_replaces_its_results_and_another_goes_elsewhere(run, phantom, data):
    command = ["--resume", run / "best.pth", "--data_path", phantom]
    evaluate(*command)
    first = snapshot(run / "eval_TBX11K_val")
    assert f"results: {run / 'eval_TBX11K_val'}" in evaluate(*command, "--options", "num_workers=0").out
    assert folders(run) == ["eval_TBX11K_val"]
    before = snapshot(run / "eval_TBX11K_val")
    assert {name: before[name] for name in RESULTS} == {name: first[name] for name in RESULTS}
    evaluate(*command, "--options", "operating_rule=sensitivity")  # other options
    evaluate("--resume", run / "checkpoint.pth", "--data_path", phantom)  # another checkpoint
    evaluate("--resume", run / "best.pth", "--data_path", data)  # the same list in another place
    without_last_image(data)
    evaluate("--resume", run / "best.pth", "--data_path", data)  # another list of the same name and place
    evaluate(*command, "--options", "val_list=TBX11K_train")
    assert folders(run) == ["eval_TBX11K_train", *(f"eval_TBX11K_val{n}" for n in ("", "_2", "_3", "_4", "_5"))]
    assert snapshot(run / "eval_TBX11K_val") == before


def test_an_evaluation_that_is_cut_off_leaves_the_run_and_its_old_results(run, phantom, monkeypatch):
    command = ["--eval", "--resume", run / "best.pth", "--data_path", phantom, "--device", "cpu", *FAST]
    assert call(*command).code == 0
    before = snapshot(run)
    monkeypatch.setattr(STOP, "signal", signal.SIGTERM)
    assert call(*command).code == 75
    monkeypatch.setattr(STOP, "signal", None)

    def fail(*_, **__):
        raise FloatingPointError("cut off")

    monkeypatch.setattr(main, "predict", fail)
    assert call(*command).code == 1
    after = snapshot(run)
    grows = "eval_TBX11K_val/info.txt"
    assert {name: after[name] for name in before if name != grows} == {n: before[n] for n in before if n != grows}
    assert after.keys() == before.keys()


def test_results_that_were_cut_off_while_they_were_written_are_not_believed(run, phantom, monkeypatch):
    """An explicit folder is used as it is; between its files the process may be killed."""
    where = ["--resume", run / "best.pth", "--data_path", phantom, "--output_dir", run.parent / "e"]
    evaluate(*where)

    def fail(*_, **__):
        raise FloatingPointError("cut off")

    monkeypatch.setattr("util.training.evaluation.save_report", fail)
    assert call("--eval", *where, "--options", "val_list=TBX11K_train").code == 1
    with pytest.raises(UserError, match=r"truth\.json\.gz: is not the ground truth whose metrics"):
        load_script("plot_evaluation").load_study(run.parent / "e", None, None)
    with pytest.raises(UserError, match=r"truth\.json\.gz: is not the ground truth whose metrics"):
        load_script("make_model_card").card_of(run.parent / "e")
