import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.base.errors import UserError
from util.plots.curves import RunCurves, load_run, names_of, read_log, running_mean


def train_row(step, epoch=0, **changes):
    return {"kind": "train", "epoch": epoch, "step": step, "loss": 9.0 / step} | changes


def epoch_row(epoch, step):
    return {"kind": "epoch", "epoch": epoch, "step": step}


def eval_row(epoch, weights="ema", **figures):
    return {"kind": "eval", "epoch": epoch, "step": 10 * epoch + 10, "weights": weights} | figures


def log_file(folder, rows, tail=""):
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    return path


def run_of(*rows, report=None):
    return RunCurves("run", rows, report or {})


def places(run, *, in_epochs=True):
    return [run.place(row, in_epochs=in_epochs) for row in run.train]


def test_a_half_written_last_line_is_left_out(tmp_path):
    rows = [train_row(1), train_row(2)]
    assert read_log(log_file(tmp_path, rows, '{"kind": "train", "ep')) == rows


def test_a_row_written_again_by_a_resumed_run_replaces_the_first(tmp_path):
    rows = [train_row(1), train_row(2, loss=5.0), train_row(3), train_row(2, loss=4.0)]
    assert [(r["step"], r["loss"]) for r in read_log(log_file(tmp_path, rows))] == [(1, 9.0), (2, 4.0), (3, 3.0)]


def test_both_weights_of_one_evaluation_are_kept(tmp_path):
    rows = read_log(log_file(tmp_path, [eval_row(0, "model"), eval_row(0, "ema")]))
    assert {r["weights"] for r in rows} == {"model", "ema"}


@pytest.mark.parametrize("content", ["", '{"kind": "tra', "[1, 2]\n", '{"epoch": 1}\n', '{"kind": "train"}\n'])
def test_a_log_without_a_whole_row_is_one_clear_error(tmp_path, content):
    with pytest.raises(UserError, match=r"log\.jsonl: no complete row yet"):
        read_log(log_file(tmp_path, [], content))


def test_a_folder_without_a_log_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"no log found: .*log\.jsonl"):
        load_run(tmp_path, "run")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_report_that_is_none_is_one_clear_error(tmp_path, text):
    log_file(tmp_path, [train_row(1)])
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json: .*evaluate the run again"):
        load_run(tmp_path, "run")


def test_values_that_are_no_finite_number_are_left_out_of_a_curve():
    run = run_of(train_row(1), train_row(2, loss=float("nan")), train_row(3, loss=None), train_row(4))
    curve = run.curve("train", "loss", in_epochs=False)
    assert curve.x.tolist() == [1, 4]
    assert curve.y.tolist() == [9.0, 2.25]
    assert len(run.curve("train", "class_skill", in_epochs=False).y) == 0


weighed = st.tuples(st.floats(-1e3, 1e3), st.floats(0.1, 100.0))


@given(st.lists(weighed, max_size=20), st.integers(1, 25))
def test_a_running_mean_is_the_weighed_mean_over_its_window(pairs, width):
    values, weights = np.array(pairs, dtype=float).reshape(-1, 2).T
    for n, mean in enumerate(running_mean(values, weights, width)):
        window = slice(max(0, n + 1 - width), n + 1)
        assert mean == pytest.approx(np.average(values[window], weights=weights[window]), abs=1e-9)


def test_a_running_mean_is_the_ratio_of_the_sums():
    """Of class errors over 1 and over 9 boxes; of a skill, 1 - the ratio of the two losses."""
    rows = [
        {"class_error": 100.0, "class_error_n": 1, "loss_ce": 3.0, "loss_ce_of_best_constant": 1.0, "steps": 1},
        {"class_error": 0.0, "class_error_n": 9, "loss_ce": 1.0, "loss_ce_of_best_constant": 2.0, "steps": 2},
    ]
    for row in rows:
        row["class_skill"] = 1 - row["loss_ce"] / row["loss_ce_of_best_constant"]
    run = run_of(*(train_row(n + 1, **row) for n, row in enumerate(rows)))
    for column, mean in (("class_error", 10.0), ("class_skill", 1 - (3.0 * 1 + 1.0 * 2) / (1.0 * 1 + 2.0 * 2))):
        curve = run.curve("train", column, in_epochs=False)
        assert running_mean(curve.y, curve.weight, 2)[-1] == pytest.approx(mean)


def test_the_waiting_share_is_weighed_by_seconds():
    run = run_of(train_row(1, time=1.0, data=1.0, steps=1), train_row(4, time=3.0, data=0.0, steps=3))
    curve = run.curve("train", "data_share", in_epochs=False)
    assert curve.y.tolist() == [1.0, 0.0]
    assert running_mean(curve.y, curve.weight, 2)[-1] == pytest.approx(1.0 / 10.0)


def test_a_step_stands_at_the_share_of_its_epoch_that_is_done():
    run = run_of(train_row(5), train_row(10), epoch_row(0, 10), train_row(15, 1))
    assert places(run) == [0.5, 1.0, 1.5]
    assert places(run, in_epochs=False) == [5, 10, 15]
    assert run.place(eval_row(1), in_epochs=True) == 2


def test_a_run_that_began_at_a_later_epoch_has_its_place():
    assert places(run_of(train_row(45, 4), epoch_row(4, 50), train_row(55, 5))) == [4.5, 5.5]


def test_epochs_of_other_lengths_have_their_own_scale():
    run = run_of(train_row(5), epoch_row(0, 10), train_row(20, 1), epoch_row(1, 30), train_row(35, 2))
    assert places(run) == [0.5, 1.5, 2.25]


def test_the_first_epoch_is_as_long_as_its_start_says_and_else_unknown():
    start = {"kind": "start", "epoch": 0, "step": 0, "num_images": 39, "cut": [2, 1, 2]}
    run = run_of(start, train_row(5))
    assert places(run) == [0.5]
    assert run.knows_epochs
    assert not run_of(train_row(5)).knows_epochs
    assert run_of(start).knows_epochs


def test_the_averaged_weights_are_taken_where_there_are_any():
    model, ema = eval_row(1, "model"), eval_row(1, "ema")
    assert run_of(model, ema).evaluations == [ema]
    assert run_of(model).evaluations == [model]


def test_evaluations_by_a_command_of_their_own_stand_back():
    own, other = eval_row(1), eval_row(1, checkpoint="best.pth")
    assert run_of(other, own).evaluations == [own]
    assert run_of(other).evaluations == [other]


def test_an_interval_of_the_report_belongs_to_the_evaluation_with_its_figures():
    key = "all/agnostic/AP"
    rows = [eval_row(n, **{key: value}) for n, value in enumerate((0.0, 0.0, 0.2))]
    report = {key: 0.0, f"{key}/ci95": [0.0, 0.1]}
    assert run_of(*rows, report=report).intervals(key, in_epochs=True) == [(2, 0.0, 0.0, 0.1)]
    assert run_of(*rows, report={**report, key: 0.1}).intervals(key, in_epochs=True) == []
    assert run_of(*rows).intervals(key, in_epochs=True) == []


def test_an_interval_in_the_row_itself_counts():
    row = eval_row(0, **{"all/agnostic/AP": 0.2, "all/agnostic/AP/ci95": [0.1, 0.3]})
    assert run_of(row).intervals("all/agnostic/AP", in_epochs=True) == [(1, 0.2, 0.1, 0.3)]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["logs/a"], ["a"]),
        (["logs/a", "logs/b/"], ["a", "b"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "y/other"]),
        (["x/run", "x/run"], ["run", "run"]),
    ],
)
def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(folders, names):
    assert names_of([Path(folder) for folder in folders]) == names
