import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.plots import column, draw_run, read_log, smooth


def train_row(step, **changes):
    losses = {"loss": 9.0 / step, "loss_ce": 1.0, "loss_bbox": 0.0, "loss_giou": 0.5}
    row = {"kind": "train", "epoch": 0, "step": step, "lr": 1e-4, "lr_backbone": 1e-5, "grad_norm": 3.0}
    return row | losses | {"images_per_second": 20.0} | changes


def eval_row(epoch, weights="ema", **figures):
    values = {f"all/{m}/{f}": 0.1 * epoch for m in ("agnostic", "per_class") for f in ("AP", "AP50")}
    return {"kind": "eval", "epoch": epoch, "step": 10 * epoch + 10, "weights": weights} | values | figures


def log_file(folder, rows, tail=""):
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    return path


def labels(axes):
    return [line.get_label() for line in axes.lines]


def texts(axes):
    return [t.get_text() for t in axes.texts]


def test_a_half_written_last_line_is_left_out(tmp_path):
    rows = [train_row(1), train_row(2)]
    assert read_log(log_file(tmp_path, rows, '{"kind": "train", "ep')) == rows


def test_a_row_written_again_by_a_resumed_run_replaces_the_first(tmp_path):
    rows = [train_row(1), train_row(2, loss=5.0), train_row(3), train_row(2, loss=4.0)]
    assert [(r["step"], r["loss"]) for r in read_log(log_file(tmp_path, rows))] == [(1, 9.0), (2, 4.0), (3, 3.0)]


def test_both_weights_of_one_evaluation_are_kept(tmp_path):
    rows = read_log(log_file(tmp_path, [eval_row(0, "model"), eval_row(0, "ema")]))
    assert {r["weights"] for r in rows} == {"model", "ema"}


@pytest.mark.parametrize("content", ["", '{"kind": "tra', "[1, 2]\n", '{"epoch": 1}\n'])
def test_a_log_without_a_whole_row_is_one_clear_error(tmp_path, content):
    with pytest.raises(ValueError, match=r"log\.jsonl: no whole row yet"):
        read_log(log_file(tmp_path, [], content))


def test_a_folder_without_a_log_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"no log found: .*log\.jsonl"):
        read_log(tmp_path / "log.jsonl")


def test_values_that_are_no_finite_number_are_left_out_of_a_curve():
    rows = [train_row(1), train_row(2, loss=float("nan")), train_row(3, loss=None), train_row(4)]
    steps, values = column(rows, "loss")
    assert steps.tolist() == [1, 4]
    assert values.tolist() == [9.0, 2.25]


finite = st.floats(-1e3, 1e3)


@given(st.lists(finite | st.just(float("nan")), max_size=20), st.integers(1, 25))
def test_smoothing_is_the_mean_of_the_finite_values_in_the_window(values, width):
    for n, mean in enumerate(smooth(np.array(values, dtype=float), width)):
        window = [v for v in values[max(0, n + 1 - width) : n + 1] if np.isfinite(v)]
        assert mean == pytest.approx(np.mean(window), abs=1e-9) if window else np.isnan(mean)


def test_the_panels_show_what_the_log_holds():
    names = {f"all/per_class/{n}/{f}": 0.1 for n in ("red", "green") for f in ("AP", "AP50")}
    rows = [*map(train_row, range(1, 40)), *(eval_row(e, **names) for e in range(3))]
    loss, ap, ap50, lr, norm, speed = draw_run(rows, "run").axes
    assert {"loss (total)", "loss_ce", "loss_bbox", "loss_giou"} <= set(labels(loss))
    assert labels(ap) == labels(ap50) == ["class-agnostic", "mean over classes", "red", "green"]
    np.testing.assert_allclose(ap.lines[0].get_xydata(), [[0, 0], [1, 0.1], [2, 0.2]])
    assert labels(lr) == ["lr", "lr_backbone"]
    assert (norm.get_ylabel(), speed.get_ylabel()) == ("L2 norm", "images / s")
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in (loss, ap, ap50, lr, norm, speed))


def test_the_averaged_weights_are_drawn_where_there_are_any_and_the_title_says_so():
    model, ema = eval_row(1, "model"), eval_row(1, "ema", **{"all/agnostic/AP": 0.7})
    ap = draw_run([model, ema], "run").axes[1]
    assert "ema weights" in ap.get_title(loc="left")
    assert ap.lines[0].get_ydata() == [0.7]
    assert "model weights" in draw_run([model], "run").axes[1].get_title(loc="left")


@pytest.mark.parametrize(
    "rows",
    [
        [train_row(1)],
        [train_row(1, loss=0.0, loss_ce=0.0, loss_giou=0.0, lr=0.0, lr_backbone=0.0, grad_norm=0.0)],
        [eval_row(0)],
        [{"kind": "epoch", "epoch": 0, "step": 3, "loss": 1.0}],
        [train_row(1), {"kind": "eval", "epoch": 0, "step": 1, "weights": "model"}],
    ],
    ids=["one step", "all zero", "one evaluation", "no panel has data", "evaluation without figures"],
)
@pytest.mark.filterwarnings("error")
def test_a_run_that_has_just_begun_is_drawn(tmp_path, rows):
    figure = draw_run(rows, "run")
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    for axes in figure.axes:
        assert axes.lines or texts(axes) in (["no evaluation yet"], ["no training step yet"])
