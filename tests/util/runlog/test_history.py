import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.base.numbers import number
from util.runlog.class_skill import FocalSettings
from util.runlog.history import Epoch, History, history_of
from util.runlog.meters import Totals
from util.runlog.rows import read_rows
from util.runlog.step_statistics import row_metrics

START = {"kind": "start", "schema": 2, "epoch": 0, "step": 0, "config": {"lr": 1e-4}}


def train(epoch, step, **values):
    return {"kind": "train", "epoch": epoch, "step": step, "steps": 1, **values}


def evaluation(epoch, ap, **more):
    return {"kind": "eval", "epoch": epoch, "step": 9, "weights": "ema", "all/per_class/AP": ap, **more}


def whole(epoch, **values):
    return {"kind": "epoch", "epoch": epoch, "step": 9, **values}


def only(rows):
    [epoch] = history_of(rows).epochs
    return epoch


def test_an_epoch_has_the_metrics_of_its_row_and_those_only_in_train_rows():
    rows = [
        train(0, 1, lr=1e-5, time=1.0, data=0.5, loss=9.0),
        train(0, 2, lr=1e-4, time=3.0, data=0.5, loss=1.0),
        whole(0, loss=4.0, class_skill=0.2),
        evaluation(0, 0.05),
    ]
    epoch = only(rows)
    assert (epoch.number, epoch.is_whole, epoch.get("loss"), epoch.get("class_skill")) == (0, True, 4.0, 0.2)
    assert (epoch.get("lr"), epoch.get("data_share"), epoch.get("step")) == (1e-4, 0.25, 2)
    assert epoch.evaluated("all/per_class/AP") == 0.05


def test_a_row_of_many_steps_weighs_more_than_one_of_few():
    rows = [train(0, 19, steps=19, loss=1.0, time=1.0, data=0.1), train(0, 20, steps=1, loss=21.0, time=11.0, data=9.1)]
    epoch = only(rows)
    assert not epoch.is_whole
    assert epoch.get("loss") == pytest.approx(2.0)
    assert epoch.get("time") == pytest.approx(1.5)
    assert epoch.get("data_share") == pytest.approx(0.55 / 1.5)


def test_skipped_steps_took_time_and_have_no_loss():
    rows = [train(0, 1, loss=2.0, time=1.0, data=0.0), train(0, 4, steps=0, skipped=3, time=2.0, data=1.0)]
    epoch = only(rows)
    assert (epoch.get("loss"), epoch.get("skipped")) == (2.0, 3)
    assert epoch.get("time") == pytest.approx(7 / 4)


FOCAL = FocalSettings(0.25, 2.0, 10)
COUNT = st.integers(0, 6)


@st.composite
def stretches(draw):
    """Totals of some steps, in which every image with a box has one or two, and events are no more than these."""
    images, with_boxes = draw(st.integers(1, 8)), draw(COUNT)
    with_boxes = min(images, with_boxes)
    boxes = draw(st.integers(with_boxes, 2 * with_boxes))
    steps = draw(st.integers(1, 5))
    losses = {"loss": draw(st.floats(0, 50)), "loss_ce": draw(st.floats(0, 5))}
    wrong = draw(st.integers(0, boxes))
    events = {
        "loss_with_boxes": draw(st.floats(0, 50)) if with_boxes else 0.0,
        "loss_without_boxes": draw(st.floats(0, 50)) if with_boxes < images else 0.0,
        "matched": float(boxes),
        "wrong_class": float(wrong),
        "found_top10": float(wrong),
        "best_score_with_boxes": with_boxes * draw(st.floats(0, 1)),
        "best_score_without_boxes": (images - with_boxes) * draw(st.floats(0, 1)),
        "predicted": float(draw(COUNT)),
        "count_error": float(draw(COUNT)),
    }
    counts = {
        "images": images,
        "images_with_boxes": with_boxes,
        "boxes": boxes,
        "skipped": draw(COUNT),
        "width": boxes * draw(st.floats(0, 1)),
        "height": boxes * draw(st.floats(0, 1)),
        "slots": 10.0 * images,
        "boxes/1": wrong,
        "share/1": float(wrong),
        "boxes/2": boxes - wrong,
        "share/2": float(boxes - wrong),
    }
    return Totals(steps, losses, events, counts)


@settings(deadline=None, max_examples=40)
@given(st.lists(stretches(), min_size=1, max_size=4))
def test_the_rows_of_an_epoch_add_up_to_what_its_own_row_says(parts):
    """Every metric but the best constant, which is not a sum: its score would differ between parts."""
    rows = [{"kind": "train", "epoch": 0, "step": i, **row_metrics(part, FOCAL)} for i, part in enumerate(parts)]
    combined = row_metrics(sum(parts, Totals()), FOCAL)
    epoch = only(json.loads(json.dumps(rows)))
    assert epoch.metrics["boxes_by_category"] == combined.pop("boxes_by_category")
    constants = {name: combined.pop(name) for name in ("loss_ce_of_best_constant", "class_skill")}
    for name, value in combined.items():
        assert epoch.get(name) == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)), name
    # constants of parts can only be better than one of the whole: the skill is not overstated
    assert epoch.get("loss_ce_of_best_constant") <= constants["loss_ce_of_best_constant"] * (1 + 1e-6)
    if constants["class_skill"] is not None and epoch.get("class_skill") is not None:
        assert epoch.get("class_skill") <= constants["class_skill"] + 1e-6


def test_a_median_of_medians_is_no_median():
    epoch = only([train(0, 1, loss_median=1.0), train(0, 2, loss_median=5.0)])
    assert epoch.get("loss_median") is None


def test_sums_ignore_values_that_are_not_numbers():
    rows = [
        train(0, 1, boxes_by_category=None, boxes=2, images="many"),
        train(0, 2, boxes_by_category={"1": 3, "2": "x"}, boxes=None, images=[4]),
        train(0, 3, boxes_by_category={"1": 1, "3": 5}, boxes=3),
    ]
    metrics = only(rows).metrics
    assert metrics["boxes_by_category"] == {"1": 4, "2": 0, "3": 5}
    assert (metrics["boxes"], metrics["images"]) == (5, 0)


def test_evaluations_belong_to_the_epoch_they_name_and_those_by_command_to_none():
    rows = [whole(0), evaluation(0, 0.1), whole(1), evaluation(1, 0.2), evaluation(1, 0.9, checkpoint="best.pth")]
    assert history_of(rows).evaluated("all/per_class/AP") == [(0, 0.1), (1, 0.2)]


def test_an_epoch_that_is_under_way_is_the_last_and_not_whole():
    history = history_of([train(0, 1, loss=3.0), whole(0, loss=3.0), train(1, 2, loss=2.0)])
    assert [(e.number, e.is_whole) for e in history.epochs] == [(0, True), (1, False)]
    assert history.last.get("loss") == 2.0
    assert history.series("loss") == [(0, 3.0), (1, 2.0)]


def test_the_recipe_is_that_of_the_last_start():
    again = {**START, "epoch": 1, "config": {"lr": 1e-3}}
    history = history_of([START, whole(0), again, whole(1), {"kind": "nonfinite", "epoch": 1, "step": 9, "terms": []}])
    assert (len(history.starts), history.config) == (2, {"lr": 1e-3})
    assert len(history.not_finite) == 1
    before = history.until(0)
    assert (len(before.epochs), before.config, before.not_finite) == (1, {"lr": 1e-4}, ())


def test_what_a_log_does_not_hold_is_none():
    history = History("nobody's", ())
    assert (history.last, history.config, history.series("loss")) == (None, {}, [])
    epoch = Epoch(0, {"loss": None, "text": "3", "flag": True, "nan": float("nan"), "n": 3})
    assert [epoch.get(k) for k in ("loss", "text", "flag", "nan", "n", "other")] == [None, None, None, None, 3.0, None]
    assert number(float("inf")) is None


def test_rows_that_are_half_written_or_no_rows_are_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(START) + '\n[1, 2]\n{"no": "kind"}\n\n' + json.dumps(whole(0)) + '\n{"kind": "tra')
    assert [row["kind"] for row in read_rows(path)] == ["start", "epoch"]


def test_a_log_without_rows_of_epochs_is_an_empty_history():
    assert history_of([]).epochs == ()
    assert history_of([START, {"kind": "train", "epoch": None}]).epochs == ()
