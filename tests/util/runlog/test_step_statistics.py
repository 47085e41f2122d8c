"""Metrics of the log against values computed by hand, and as functions of the sums alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from util.detection.batch import Batch, Window
from util.runlog.class_skill import FocalSettings, best_constant_loss
from util.runlog.meters import Totals
from util.runlog.step_statistics import empty_counts, ratio, row_metrics, window_counts

FOCAL = FocalSettings(0.25, 2.0, 10)
EVENTS = {
    "loss_with_boxes": 12.0,
    "loss_without_boxes": 1.5,
    "matched": 4.0,
    "wrong_class": 1.0,
    "found_top10": 3.0,
    "best_score_with_boxes": 1.0,
    "best_score_without_boxes": 0.6,
    "predicted": 10.0,
    "count_error": 15.0,
}
COUNTS = {
    "images": 5,
    "images_with_boxes": 2,
    "boxes": 4,
    "skipped": 1,
    "width": 1.0,
    "height": 2.0,
    "slots": 40.0,
    "boxes/1": 3,
    "boxes/2": 1,
    "boxes/3": 0,
    "share/1": 1.5,
    "share/2": 0.5,
    "share/3": 0.0,
}
LOSSES = {"loss": 6.0, "loss_ce": 0.75, "grad_norm": 9.0}


def totals(**changes):
    made = {"steps": 3, "losses": LOSSES, "events": EVENTS, "counts": COUNTS, "step_losses": (5.5, 0.2, 0.3)}
    return Totals(**{**made, **changes})


def batch(*images, is_ghost=False):
    """Images, each a list of (label, width, height)."""
    targets = [
        {
            "labels": torch.tensor([label for label, *_ in boxes], dtype=torch.long),
            "boxes": torch.tensor([[0.5, 0.5, w, h] for _, w, h in boxes]).reshape(-1, 4),
        }
        for boxes in images
    ]
    return Batch(torch.zeros(len(images), 3, 1, 1), torch.zeros(len(images), 1, 1), targets, is_ghost)


def test_every_column_is_the_ratio_that_the_documentation_says():
    constant = best_constant_loss([1.5, 0.5], 40.0, FOCAL)
    row = row_metrics(totals(), FOCAL)
    assert row.pop("boxes_by_category") == {"1": 3, "2": 1, "3": 0}
    assert row == pytest.approx(
        {
            "loss": 2.0,
            "loss_ce": 0.25,
            "grad_norm": 3.0,
            "loss_median": 0.3,
            "steps": 3,
            "images": 5,
            "images_with_boxes": 2,
            "boxes": 4,
            "skipped": 1,
            "mean_box_width": 0.25,
            "mean_box_height": 0.5,
            "loss_with_boxes": 6.0,
            "loss_without_boxes": 0.5,
            "class_error": 25.0,
            "class_error_n": 4,
            "recall_top10": 0.75,
            "best_score_with_boxes": 0.5,
            "best_score_without_boxes": 0.2,
            "predicted_per_image": 2.0,
            "boxes_per_image": 0.8,
            "cardinality_error_unscaled": 3.0,
            "loss_ce_of_best_constant": constant / 3,
            "class_skill": 1 - 0.75 / constant,
        }
    )


def test_without_a_matched_box_the_class_error_is_blank_and_never_100():
    empty = {name: 0 for name in COUNTS} | {"images": 5, "slots": 50.0}
    events = {name: 0.0 for name in EVENTS} | {"loss_without_boxes": 2.0, "predicted": 3.0, "count_error": 3.0}
    row = row_metrics(totals(events=events, counts=empty), FOCAL)
    blank = {name for name, value in row.items() if value is None}
    assert blank == {
        "class_error",
        "loss_with_boxes",
        "recall_top10",
        "best_score_with_boxes",
        "mean_box_width",
        "mean_box_height",
        "class_skill",
    }
    assert (row["class_error_n"], row["loss_without_boxes"]) == (0, 0.4)


def test_where_no_step_was_taken_there_are_counts_and_no_losses():
    row = row_metrics(Totals(counts=empty_counts([1, 2], skipped=1)), FOCAL)
    assert {name: value for name, value in row.items() if value is not None} == {
        "steps": 0,
        "images": 0,
        "images_with_boxes": 0,
        "boxes": 0,
        "skipped": 1,
        "boxes_by_category": {"1": 0, "2": 0},
    }


def test_categories_stand_in_the_order_of_their_numbers():
    counts = {**COUNTS, "boxes/10": 2, "share/10": 0.1}
    assert list(row_metrics(totals(counts=counts), FOCAL)["boxes_by_category"]) == ["1", "2", "3", "10"]


def test_the_skill_of_the_best_constant_predictor_is_zero():
    constant = best_constant_loss([1.5, 0.5], 40.0, FOCAL)
    row = row_metrics(totals(losses={**LOSSES, "loss_ce": constant}), FOCAL)
    assert row["class_skill"] == pytest.approx(0.0, abs=1e-12)
    assert row["loss_ce"] == pytest.approx(row["loss_ce_of_best_constant"])


def test_counts_are_those_of_the_images_that_count():
    window = Window([batch([(1, 0.1, 0.2), (3, 0.3, 0.4)], []), batch([(1, 0.5, 0.6)], is_ghost=True)])
    counts = window_counts(window, 4.0, [1, 2, 3], 10)
    assert counts == pytest.approx(
        {
            "images": 2,
            "images_with_boxes": 1,
            "boxes": 2,
            "skipped": 0,
            "width": 0.4,
            "height": 0.6,
            "slots": 5.0,
            "boxes/1": 1,
            "share/1": 0.25,
            "boxes/2": 0,
            "share/2": 0.0,
            "boxes/3": 1,
            "share/3": 0.25,
        }
    )


def test_a_skipped_step_has_the_same_counts():
    taken = window_counts(Window([batch([])]), 1.0, [1, 2], 10)
    assert empty_counts([1, 2], skipped=1).keys() == taken.keys()
    assert empty_counts([1, 2], skipped=1) == {**dict.fromkeys(taken, 0), "skipped": 1}


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=2, max_size=6), st.integers(1, 5))
def test_the_constant_does_not_depend_on_how_a_step_is_shared_out(images, first):
    """Over ranks or accumulation, the sums are those of one big batch."""
    boxes = [[(label, 0.1, 0.1) for label in labels] for labels in images]
    total = float(max(1, sum(map(len, images))))
    whole = window_counts(Window([batch(*boxes)]), total, [1, 2, 3], 10)
    parts = [window_counts(Window([batch(*some)]), total, [1, 2, 3], 10) for some in (boxes[:first], boxes[first:])]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole)


def test_nothing_divided_by_nothing_is_blank():
    assert ratio(0, 0) is None
    assert ratio(0, 2) == 0
