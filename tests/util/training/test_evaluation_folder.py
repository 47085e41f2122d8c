import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.metric_tables import found_of, truth_of
from util.base.folder_lock import FolderInUse
from util.metrics.files import save_report
from util.metrics.report.file import facts_of_tables
from util.training import evaluation_folder
from util.training.evaluation_folder import choose_folder, hold_folder, holds_training, training_of

TRUTH = truth_of([1, 2], [(1, 1, (0, 0, 10, 10))])
OTHER = truth_of([1, 2], [(1, 1, (0, 0, 10, 11))])
FACTS = {
    "list": "TBX11K_val",
    "annotation_file": "data/annotations/json/TBX11K_val.json",
    "image_folder": "data/imgs",
    "checkpoint": "logs/run/best.pth",
    "config": "0",
    "step": 3,
    "weights": "ema",
}
OF_AN_EVALUATION = {"kind": "eval", "epoch": 0, "step": 3, "checkpoint": "best.pth"}


def choose(folder, truth=TRUTH, **changes):
    """The name of the folder that an evaluation of FACTS in a run folder gets."""
    (folder / "best.pth").touch()
    return choose_folder(folder, truth, {**FACTS, **changes}).relative_to(folder).as_posix()


def report_in(folder, truth=TRUTH, **changes):
    folder.mkdir(exist_ok=True)
    facts = {**facts_of_tables(truth, found_of([1, 2], [])), "operating_point": {}, "epoch": 0, **FACTS, **changes}
    save_report(folder / "report.json", {"all/per_class/AP": 0.5}, facts)


def write_log(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_without_an_output_folder_the_results_go_beside_the_checkpoint():
    assert choose_folder(None, TRUTH, FACTS) == Path("logs/run/eval_TBX11K_val")


def test_a_folder_that_holds_no_training_is_used_as_it_is(tmp_path):
    assert choose_folder(tmp_path / "new", TRUTH, FACTS) == tmp_path / "new"
    write_log(tmp_path, OF_AN_EVALUATION)
    report_in(tmp_path, OTHER)
    assert choose_folder(tmp_path, TRUTH, FACTS) == tmp_path


CHANGES = [
    {"truth": OTHER}, {"annotation_file": "other/val.json"}, {"image_folder": "other/imgs"}, {"config": "1"},
    {"checkpoint": "logs/run/checkpoint.pth"}, {"step": 4}, {"weights": "model"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_results_of_something_else_are_never_replaced(tmp_path, change):
    report_in(tmp_path / "eval_TBX11K_val")
    assert choose(tmp_path) == "eval_TBX11K_val"
    assert choose(tmp_path, **change) == "eval_TBX11K_val_2"
    report_in(tmp_path / "eval_TBX11K_val_2", **change)
    assert choose(tmp_path, **change) == "eval_TBX11K_val_2"
    assert choose(tmp_path) == "eval_TBX11K_val"


@pytest.mark.parametrize("text", ["{", "[]", '{"all/per_class/AP": 0.5}', '{"evaluated": {"checkpoint": "\\u0000"}}'])
def test_a_report_that_does_not_tell_what_it_is_of_is_not_replaced(tmp_path, text):
    (tmp_path / "eval_TBX11K_val").mkdir()
    (tmp_path / "eval_TBX11K_val/report.json").write_text(text)
    assert choose(tmp_path) == "eval_TBX11K_val_2"


def test_what_an_evaluation_left_that_did_not_end_is_used_and_a_file_or_a_training_is_not(tmp_path):
    (tmp_path / "eval_TBX11K_val").mkdir()
    (tmp_path / "eval_TBX11K_val/info.txt").touch()
    assert choose(tmp_path) == "eval_TBX11K_val"
    write_log(tmp_path / "eval_TBX11K_val", {"kind": "start", "epoch": 0, "step": 0})
    assert choose(tmp_path) == "eval_TBX11K_val_2"
    (tmp_path / "eval_TBX11K_val_2").touch()
    assert choose(tmp_path) == "eval_TBX11K_val_3"
    (tmp_path / "eval_TBX11K_val_3").symlink_to(tmp_path / "nowhere")
    assert choose(tmp_path) == "eval_TBX11K_val_4"


def test_a_very_long_name_of_a_list_makes_a_folder_all_the_same(tmp_path):
    (tmp_path / choose(tmp_path, list="ü" * 120)).mkdir()


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint.1.pth", "checkpoint0012.pth", "best.pth"])
def test_a_folder_with_a_checkpoint_of_a_training_holds_one(tmp_path, name):
    (tmp_path / "checkpoint0011_4scale.pth").touch()
    assert not holds_training(tmp_path)
    (tmp_path / name).touch()
    assert holds_training(tmp_path)


def test_rows_and_reports_tell_a_training_from_an_evaluation(tmp_path):
    assert not holds_training(tmp_path / "nowhere")
    assert not holds_training(tmp_path)
    write_log(tmp_path, OF_AN_EVALUATION)
    assert not holds_training(tmp_path)
    write_log(tmp_path, {"kind": "eval", "epoch": 0, "step": 3})
    assert holds_training(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    report_in(tmp_path)
    assert not holds_training(tmp_path)
    (tmp_path / "report.json").write_text('{"all/per_class/AP": 0.5}')
    assert holds_training(tmp_path), "an older report may be of one"


def test_the_training_of_an_evaluation_is_the_folder_above(tmp_path, monkeypatch):
    (tmp_path / "best.pth").touch()
    report_in(tmp_path / "eval_a")
    assert training_of(tmp_path / "eval_a").samefile(tmp_path)
    assert training_of(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path / "eval_a")
    assert training_of(Path()).samefile(tmp_path)
    (tmp_path / "best.pth").unlink()
    assert training_of(Path()) == Path()


def test_a_folder_in_which_another_evaluation_is_under_way_counts_as_taken(tmp_path):
    (tmp_path / "best.pth").touch()
    with ExitStack() as first, ExitStack() as second:
        folders = [hold_folder(tmp_path, TRUTH, FACTS, held) for held in (first, second)]
        assert [folder.name for folder in folders] == ["eval_TBX11K_val", "eval_TBX11K_val_2"]
        named = tmp_path / "eval_TBX11K_val"
        with pytest.raises(FolderInUse, match="another evaluation is writing there"), ExitStack() as third:
            hold_folder(named, TRUTH, FACTS, third)


def test_results_that_another_evaluation_left_while_this_one_waited_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "best.pth").touch()
    lock_folder = evaluation_folder.lock_folder

    def lock_late(folder, what):
        if folder.name == "eval_TBX11K_val":
            report_in(folder, OTHER)
        return lock_folder(folder, what)

    monkeypatch.setattr(evaluation_folder, "lock_folder", lock_late)
    with ExitStack() as held:
        assert hold_folder(tmp_path, TRUTH, FACTS, held).name == "eval_TBX11K_val_2"
