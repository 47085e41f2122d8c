from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from util.plots.curves import RunCurves
from util.plots.dashboard import PANELS, describe_run, draw_dashboard, warn_of_other_data
from util.plots.panels import Dashboard, draw_panel
from util.plots.style import STYLES

TITLES = [panel.title for panel in PANELS]
ALL = [*PANELS, *(panel.foot for panel in PANELS if panel.foot)]
FIGURES = {
    "loss": 12.0, "loss_with_boxes": 40.0, "loss_without_boxes": 0.1, "class_skill": 0.3, "class_error": 25.0,
    "class_error_n": 8, "recall_top10": 0.6, "best_score_with_boxes": 0.5, "best_score_without_boxes": 0.2,
    "predicted_per_image": 1.5, "boxes_per_image": 1.0, "lr": 1e-4, "lr_backbone": 1e-5, "grad_norm": 3.0,
    "clipped_share": 0.5, "time": 0.5, "data": 0.1, "images_per_second": 8.0,
}  # fmt: skip


LOWEST = ["Boxes per image", "Learning rate", "clipped", "waiting"]


def train_row(step, **changes):
    return {"kind": "train", "epoch": 0, "step": step} | FIGURES | changes


def eval_row(epoch, weights="ema", **figures):
    values = {f"all/{m}/{f}": 0.1 * epoch for m in ("agnostic", "per_class") for f in ("AP", "AP50")}
    return {"kind": "eval", "epoch": epoch, "step": 10 * epoch + 10, "weights": weights} | values | figures


def a_run(name="run", epochs=3, report=None, **changes):
    train = [train_row(10 * e + 5 * half, epoch=e, **changes) for e in range(epochs) for half in (1, 2)]
    over = [{"kind": "epoch", "epoch": e, "step": 10 * e + 10} for e in range(epochs)]
    return RunCurves(name, (*train, *over, *map(eval_row, range(epochs))), report or {})


def panels(*runs):
    """Axes by title; a strip is called by the name of its vertical axis."""
    return Panels(runs)


class Panels(dict):
    """Draws what is asked for: a whole page takes a third of a second."""

    def __init__(self, runs):
        self.page = Dashboard(runs, in_epochs=all(run.knows_epochs for run in runs))

    def __missing__(self, title):
        axes = self[title] = Figure().add_subplot()
        draw_panel(axes, next(p for p in ALL if title in (p.title, p.unit)), self.page)
        return axes


def curves(axes):
    """Coordinates of the drawn curves: dots, bars and marks left out."""
    lines = [line for line in axes.lines if line.get_linestyle() != "None" and len(set(line.get_xdata())) > 1]
    return [line.get_xydata().tolist() for line in lines if to_hex(line.get_color()) != "#b3202c"]


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []


def test_every_figure_of_a_run_has_its_panel():
    shown = {a.get_title(loc="left") or a.get_ylabel(): a for a in draw_dashboard([a_run()]).axes}
    assert list(shown)[:2] == TITLES[:2]
    assert set(shown) == {*TITLES, "n", "clipped", "waiting"}
    assert [title for title, axes in shown.items() if axes.get_xlabel()] == LOWEST
    assert {axes.get_xlabel() for axes in shown.values()} == {"", "epochs done"}
    assert len({axes.get_xlim() for axes in shown.values()}) == 1
    drawn = {title: [points[-1][1] for points in curves(axes)] for title, axes in shown.items()}
    expected = {
        "Loss, images with boxes": [40.0, 12.0],
        "Loss, images without boxes": [0.1],
        "AP on the validation images": [0.2, 0.2],
        "AP50 on the validation images": [0.2, 0.2],
        "Class skill": [0.3],
        "Class error": [25.0],
        "n": [8.0],
        "Score of the best query": [0.5, 0.2],
        "Recall@10": [0.6],
        "Boxes per image": [1.5, 1.0],
        "Learning rate": [1e-4, 1e-5],
        "Gradient norm": [3.0],
        "clipped": [0.5],
        "Throughput": [8.0],
        "waiting": [0.2],
    }
    assert drawn.keys() == expected.keys()
    for title, values in expected.items():
        assert drawn[title] == pytest.approx(values), title


def test_the_zero_line_of_the_skill_is_called_constant_predictor():
    skill = panels(a_run(class_skill=-0.5))["Class skill"]
    assert "constant predictor" in texts(skill)
    assert [0.0, 0.0] in [list(line.get_ydata()) for line in skill.lines]
    assert skill.get_ylim()[0] < -0.5


def test_evaluations_stand_at_the_epochs_done_and_training_between_them():
    shown = panels(a_run())
    assert [x for x, _ in curves(shown["AP on the validation images"])[0]] == [1, 2, 3]
    assert [x for x, _ in curves(shown["Recall@10"])[0]] == [0.5, 1, 1.5, 2, 2.5, 3]


def test_where_a_log_does_not_tell_the_length_of_an_epoch_steps_are_drawn():
    figure = draw_dashboard([RunCurves("run", (train_row(10), train_row(20)), {})])
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert curves(shown["Recall@10"]) == [[[10, 0.6], [20, 0.6]]]
    assert shown["Learning rate"].get_xlabel() == "optimizer steps"


def test_few_categories_have_a_line_each_under_a_short_name():
    names = {f"all/per_class/{n}/{f}": 0.1 for n in ("RedThing", "GreenThing") for f in ("AP", "AP50")}
    run = RunCurves("run", tuple(eval_row(e, **names) for e in range(3)), {})
    shown = panels(run)
    for figure in ("AP", "AP50"):
        axes = shown[f"{figure} on the validation images"]
        assert legend(axes) == ["mean over classes", "class-agnostic", "Red", "Green"]
    many = {f"all/per_class/{n}/AP": 0.1 for n in "abcd"}
    assert len(curves(panels(RunCurves("run", (eval_row(0, **many), eval_row(1, **many)), {}))[TITLES[2]])) == 2


def test_an_interval_is_drawn_where_the_report_has_one():
    report = {**{k: v for k, v in eval_row(2).items() if "/" in k}, "all/per_class/AP/ci95": [0.15, 0.35]}
    shown = panels(a_run(report=report))
    ap, ap50 = (shown[title] for title in TITLES[2:4])
    (bar,) = (part.get_segments()[0] for part in ap.collections)
    np.testing.assert_allclose(bar, [[3, 0.15], [3, 0.35]])
    assert ap.get_ylim()[1] > 0.35
    assert "95 %" in legend(ap)
    assert "95 %" not in legend(ap50)


def test_an_interval_that_lies_beside_its_figure_is_drawn_too():
    report = {**{k: v for k, v in eval_row(2).items() if "/" in k}, "all/agnostic/AP/ci95": [0.3, 0.4]}
    (bar,) = panels(a_run(report=report))[TITLES[2]].collections
    np.testing.assert_allclose(np.array(bar.get_segments()[0])[:, 1], [0.3, 0.4])


def test_the_learning_rate_is_not_smoothed_and_other_figures_are():
    rows = tuple(train_row(n, lr=1e-4 if n <= 50 else 1e-5, recall_top10=n % 2) for n in range(1, 101))
    shown = panels(RunCurves("run", rows, {}))
    assert {y for _, y in curves(shown["Learning rate"])[0]} == {1e-4, 1e-5}
    assert {y for _, y in curves(shown["Recall@10"])[0][4:]} == {0.5}


def test_a_step_that_was_not_finite_is_marked():
    run = RunCurves("run", (*a_run().rows, {"kind": "nonfinite", "epoch": 2, "step": 27}), {})
    loss = panels(run)[TITLES[0]]
    assert "not finite" in texts(loss)
    assert [2.7, 2.7] in [pytest.approx(list(line.get_xdata())) for line in loss.lines]
    assert "steps that were not finite: 1" in describe_run(run)


def test_runs_are_told_apart_by_colour_and_dash_with_one_legend():
    figure = draw_dashboard([a_run("one"), a_run("two", epochs=2, loss_with_boxes=20.0)])
    shown = {a.get_title(loc="left"): a for a in figure.axes}
    (names,) = figure.legends
    assert [text.get_text().split(":")[0] for text in names.get_texts()] == ["one", "two"]
    for title in ("Recall@10", TITLES[2]):
        bold = [line for line in shown[title].lines if line.get_alpha() is None]
        assert [line.get_color() for line in bold] == [look["color"] for look in STYLES[:2]]
        assert [line.get_linestyle() for line in bold] == ["-", "--"]
    bold, faint = ([line for line in shown[TITLES[0]].lines if line.get_alpha() == a] for a in (None, 0.5))
    assert [line.get_ydata()[0] for line in (*bold, *faint)] == pytest.approx([40.0, 20.0, 12.0, 12.0])
    assert legend(shown[TITLES[0]]) == ["per image with boxes", "per step, all images"]


def test_a_run_of_an_older_log_is_compared_in_what_it_has():
    old = [{k: row[k] for k in ("kind", "epoch", "step", "loss", "lr", "grad_norm")} for row in a_run().train]
    shown = panels(a_run("new"), RunCurves("old", (*old, *a_run().rows[6:]), {}))
    assert "no data of old" in texts(shown["Class skill"])
    assert len(curves(shown["Class skill"])) == 1
    assert len(curves(shown["Gradient norm"])) == 2
    alone = panels(RunCurves("old", tuple(old), {}))
    assert texts(alone["Class skill"])[-1] == texts(alone["waiting"])[-1] == "not in this log"
    assert legend(alone[TITLES[0]]) == ["per step, all images"]
    assert texts(alone[TITLES[2]])[-1] == "no evaluation yet"


def test_a_figure_that_never_had_a_denominator_says_so():
    assert "nothing to divide by" in texts(panels(a_run(class_skill=None))["Class skill"])[-1]


@pytest.mark.parametrize(
    ("rows", "training", "judging"),
    [
        ((train_row(1),), None, "no evaluation yet"),
        ((train_row(1, **dict.fromkeys(FIGURES, 0.0) | {"class_error_n": 1}),), None, "no evaluation yet"),
        ((eval_row(0),), "no training step yet", None),
        (({"kind": "start", "epoch": 0, "step": 0},), "no training step yet", "no evaluation yet"),
        (({"kind": "eval", "epoch": 0, "step": 1},), "no training step yet", "the evaluations have no such metric"),
    ],
    ids=["one step", "all zero", "one evaluation", "begun", "evaluation without figures"],
)
@pytest.mark.filterwarnings("error")
def test_a_run_that_has_just_begun_is_drawn_and_says_what_is_missing(rows, training, judging):
    shown = panels(RunCurves("run", rows, {}))
    for panel in PANELS:
        axes = shown[panel.title]
        why = judging if panel.kind == "eval" else training
        assert why in texts(axes) if why else axes.lines, panel.title


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_names_that_mean_something_elsewhere_are_drawn_as_they_are(tmp_path):
    figure = draw_dashboard([a_run("_$x_{$"), a_run("b$")])
    assert figure.legends[0].get_texts()[0].get_text().startswith("_$x_{$:")
    figure.savefig(tmp_path / "curves.png", dpi=40)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_run_is_described_by_how_far_it_is_and_how_well_it_did():
    start = {"kind": "start", "epoch": 0, "step": 0, "config": {"epochs": 12}}
    run = RunCurves("run", (start, *a_run().rows), {})
    assert describe_run(run) == (
        "3 of 12 epochs done, 30 optimizer steps; best all/per_class/AP 0.200 (epochs done: 3, ema weights)"
    )
    assert describe_run(RunCurves("run", (train_row(7),), {})) == "0 epochs done, 7 optimizer steps"


def facts_of(fingerprint, images=6, name="val"):
    return {"list": name, "images": images, "images_with_boxes": 3, "boxes": 4, "ground_truth": fingerprint}


def reported(name, facts):
    """A run whose report is of its last evaluation."""
    last = {key: value for key, value in eval_row(2).items() if "/" in key}
    return replace(a_run(name, report=last), facts=facts)


def started(name, **facts):
    """A run without a report."""
    run = a_run(name)
    return replace(run, rows=({"kind": "start", "step": 0, "val": facts}, *run.rows))


def test_runs_on_different_ground_truth_are_compared_with_a_warning_on_the_page():
    runs = [reported("a", facts_of("0")), reported("b", facts_of("1", 8)), reported("c", facts_of("0"))]
    warning = warn_of_other_data(runs)
    assert "AP does not rank these runs" in warning
    assert "a: val, 6 images, 3 with boxes, 4 boxes (as 1 more); b: val, 8 images" in warning
    text = " ".join(text.get_text() for text in draw_dashboard(runs).texts)
    assert " ".join(text.split()).count(warning) == 1


def test_runs_on_the_same_ground_truth_need_no_warning():
    assert warn_of_other_data([reported("a", facts_of("0", name="x")), reported("b", facts_of("0"))]) == ""
    assert warn_of_other_data([a_run("a"), a_run("b")]) == "", "of which nothing is known"
    assert warn_of_other_data([reported("a", facts_of("0")), a_run("b")]) == ""


def test_without_a_fingerprint_the_list_and_its_counts_tell():
    facts = {key: value for key, value in facts_of("0").items() if key != "ground_truth"}
    assert warn_of_other_data([reported("a", facts_of("0")), started("b", **facts)]) == ""
    assert "b: val, 5 images" in warn_of_other_data(
        [reported("a", facts_of("0")), started("b", **{**facts, "images": 5})]
    )
    assert "b: other, 6" in warn_of_other_data([started("a", **facts), started("b", **{**facts, "list": "other"})])


def test_a_report_of_other_metrics_than_the_log_has_does_not_speak_for_it():
    stranger = replace(reported("a", facts_of("1")), report={"all/per_class/AP": 0.77})
    assert stranger.validation == {}
