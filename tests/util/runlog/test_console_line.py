import pytest

from util.runlog.console_line import MIN_BOXES_FOR_SHARE, train_line

ROW = {
    "lr": 1e-4,
    "time": 0.5,
    "data": 0.05,
    "max_mem_mb": 1234.4,
    "loss": 2.25,
    "loss_ce": 0.5,
    "loss_median": 0.0002,
    "clipped_share": 0.3,
    "grad_norm": 4.0,
    "steps": 20,
    "images": 40,
    "images_with_boxes": 4,
    "boxes": 12,
    "skipped": 0,
    "loss_with_boxes": 21.5,
    "loss_without_boxes": 0.1,
    "class_error": 25.0,
    "class_error_n": 8,
    "recall_top10": 0.5,
    "best_score_with_boxes": 0.41,
    "best_score_without_boxes": 0.08,
    "loss_ce_of_best_constant": 0.7,
    "class_skill": 0.2857,
}
EMPTY = {
    **ROW,
    "boxes": 0,
    "images_with_boxes": 0,
    "loss": 0.0002,
    "class_error": None,
    "class_error_n": 0,
    "recall_top10": None,
    "best_score_with_boxes": None,
    "loss_with_boxes": None,
    "class_skill": None,
}


def line(row=ROW, *, steps=20, is_verbose=False):
    return train_line(0, 7, 3300, 65.0, row, steps=steps, is_verbose=is_verbose)


def test_a_line_holds_the_position_and_the_main_metrics():
    assert line() == (
        "Epoch: [0]  [   7/3300]  eta: 0:01:05  lr: 0.0001  last 20 steps: 12 boxes on 40 images  loss: 2.2500  "
        "per image with boxes: 21.5000 without: 0.1000  skill: +0.29  class_error: 25.0 % of 8  recall@10: 0.50  "
        "best score with: 0.41 without: 0.08  grad_norm: 4.00 (30% clipped)  time: 0.500 (data 10%)  max mem: 1234"
    )


@pytest.mark.parametrize("is_verbose", [False, True])
def test_without_a_box_no_value_is_shown_that_would_look_like_a_collapse(is_verbose):
    text = line(EMPTY, is_verbose=is_verbose)
    assert "20 steps: 0 boxes on 40 images  loss: -  per image with boxes: - without: 0.1000  skill: -" in text
    assert "class_error: -  recall@10: -  best score with: - without: 0.08" in text
    assert "0.0002" not in text
    assert "loss_" not in text


@pytest.mark.parametrize("boxes", [1, MIN_BOXES_FOR_SHARE - 1])
def test_of_a_few_boxes_no_percentage_is_shown(boxes):
    text = line({**ROW, "boxes": boxes, "class_error": 100.0, "class_error_n": boxes, "class_skill": -1.2})
    assert (
        f"{boxes} boxes on 40 images  loss: 2.2500  per image with boxes: 21.5000 without: 0.1000  skill: -  " in text
    )
    assert "class_error: -  recall@10: -  best score with: 0.41" in text


def test_every_loss_term_follows_on_request_but_no_median():
    added = line(is_verbose=True).removeprefix(line())
    assert added.split() == ["loss_ce:", "0.5000", "loss_ce_of_best_constant:", "0.7000"]


def test_a_negative_skill_shows_its_sign():
    assert "skill: -0.31" in line({**ROW, "class_skill": -0.314})


def test_skipped_steps_are_shown_if_there_are_some():
    assert "skipped" not in line()
    assert "  skipped: 2  time:" in line({**ROW, "skipped": 2})


@pytest.mark.parametrize(("lr", "shown"), [(2e-8, "2e-08"), (4e-5, "4e-05"), (0.001, "0.001"), (0.0, "0")])
def test_a_small_learning_rate_does_not_read_as_none(lr, shown):
    assert f"  lr: {shown}  " in line({**ROW, "lr": lr})


def test_a_stretch_in_which_no_step_was_taken_has_a_line():
    bare = {"lr": 1e-4, "time": 0.0, "data": 0.0, "max_mem_mb": 1.0, "boxes": 0, "images": 0, "skipped": 3}
    text = line(bare, steps=0)
    assert "last 0 steps: 0 boxes on 0 images  loss: -" in text
    assert "grad_norm: - (- clipped)  skipped: 3  time: 0.000 (data 0%)" in text
