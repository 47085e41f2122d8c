"""The same recorded steps through the official meters and through ours: what a reader sees on either console.

91 % of the images have no box, as on TBX11K, and the network is learning. `pytest -s` shows the lines side by side.
"""

import json
import re
import sys
from collections import deque
from itertools import islice

import pytest
import torch

from models.losses.matcher import Assignment
from tests.helpers.recorded_steps import GOLDEN, LOSSES, OLD, SUMS, new_lines, old_lines, record
from tests.helpers.references.official_meters import OldMeters, cardinality_error, class_error

EVERY = 10
QUERIES = 20
COLLAPSED = 0.01  # a loss below this reads as a collapse
LEAST_LOSS = 1.0  # the lowest that any of our lines shows; the mean of the whole record is 3.8
MOST_WRONG = 60.0  # percent


@pytest.fixture(scope="module")
def recorded():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def ours(recorded, tmp_path_factory):
    return new_lines(recorded, tmp_path_factory.mktemp("ours") / "run", every=EVERY)


def shown(lines, name):
    """The figure of that name on every line that has it."""
    return [float(found.group(1)) for line in lines if (found := re.search(rf" {name}: ([-+]?\d[\d.]*)(?= |$)", line))]


def share(values, is_true):
    return sum(map(is_true, values)) / len(values)


def assert_they_look_collapsed(lines):
    assert share(shown(lines, "class_error"), lambda v: v == 100) > 0.75
    assert share(shown(lines, "loss"), lambda v: v < COLLAPSED) > 0.9
    assert share(shown(lines, "cardinality_error_unscaled"), lambda v: v > 0.9 * QUERIES) > 0.75


def test_the_record_is_of_images_like_those_of_tbx11k(recorded):
    steps = recorded["steps"]
    images = [boxes for step in steps["boxes"] for boxes in step]
    assert (len(steps["boxes"]), len(images)) == (400, 800)
    assert share(images, lambda boxes: not boxes) == pytest.approx(0.91, abs=0.01)
    assert set(steps) == {*LOSSES, *SUMS, *OLD, "boxes"}
    assert {len(column) for column in steps.values()} == {400}


def test_the_old_console_shows_a_collapse_that_is_none(recorded, ours):
    lines = old_lines(recorded, every=EVERY)
    for old, new in islice(zip(lines, ours[0], strict=True), 0, None, 8):
        sys.stdout.write(f"\n{old}\n{new}\n")
    assert_they_look_collapsed(lines)
    assert share(shown(lines, "class_error"), lambda v: v == 100) == 0.85
    assert share(shown(lines, "loss"), lambda v: v < 0.0015) == 1.0
    assert min(shown(lines, "cardinality_error_unscaled")) > 19


def test_the_new_console_shows_none(ours):
    lines, _ = ours
    assert min(shown(lines, "loss")) > LEAST_LOSS
    assert max(shown(lines, "class_error")) < MOST_WRONG
    assert not [line for line in lines if "cardinality" in line]
    number_of_boxes = [int(re.search(r"(\d+) boxes on", line).group(1)) for line in lines]
    for line, boxes in zip(lines, number_of_boxes, strict=True):
        assert ("  loss: -  " in line) == (boxes == 0)
        assert ("class_error: -  " in line) == (boxes < 10)
    assert share(number_of_boxes, lambda n: n >= 10) > 0.9


def test_the_new_console_shows_that_the_network_learns(ours):
    lines, _ = ours
    skill, score, empty = (shown(lines, name) for name in ("skill", "best score with", "without"))
    assert -1 < min(skill) < 0 < 0.3 < skill[-1] == pytest.approx(max(skill), abs=0.3)
    assert 0.4 < score[-1] == pytest.approx(max(score), abs=0.1)
    assert max(empty) < 0.1  # the loss and the best score of images without boxes
    assert shown(lines, "recall@10")[-1] > 0.4


def test_with_every_loss_term_there_is_no_collapse_either(recorded, tmp_path):
    lines, _ = new_lines(recorded, tmp_path / "run", every=EVERY, is_verbose=True)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert len(shown(lines, name)) == 39  # all but the first line, which saw no box
        assert min(shown(lines, name)) > COLLAPSED
    assert shown(lines, "loss_median") == []


def test_the_rows_keep_what_the_console_leaves_out_and_name_it(ours):
    _, rows = ours
    assert len(rows) == 40
    assert share([row["loss_median"] for row in rows], lambda v: v < COLLAPSED) > 0.9  # the median, under its name
    empty = [row for row in rows if not row["boxes"]]
    assert len(empty) == 5
    assert {(row["class_error"], row["class_error_n"], row["class_skill"]) for row in empty} == {(None, 0, None)}
    assert not [row for row in rows if row["class_error"] == 100 and not row["class_error_n"]]
    assert max(row["cardinality_error_unscaled"] for row in rows) < 2  # boxes shown against boxes there


def test_the_mean_over_the_record_is_the_same_by_both_meters(recorded, ours):
    """A mean is a mean; what the official line shows first is a median."""
    [*_, last] = old_lines(recorded, every=EVERY)
    rows = ours[1]
    for name in ("loss", "loss_ce", "loss_bbox"):
        mean = float(re.search(rf" {name}: [\d.]+ \(([\d.]+)\)", last).group(1))
        assert sum(row[name] for row in rows) / len(rows) == pytest.approx(mean, abs=1e-4)


@pytest.mark.slow
def test_a_training_of_today_reads_alike(tmp_path):
    """Its first 400 steps, in which little is learned: still nothing reads as a collapse."""
    made = record(tmp_path, epochs=4, kept=slice(None))
    assert len(made["steps"]["loss"]) == 400
    assert_they_look_collapsed(old_lines(made, every=EVERY))
    lines, rows = new_lines(made, tmp_path / "ours", every=EVERY)
    assert min(shown(lines, "loss")) > LEAST_LOSS
    assert max(shown(lines, "class_error")) < MOST_WRONG
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    logged = [row for row in logged if row["kind"] == "train"]
    for name in ("loss", "class_error", "recall_top10", "class_skill", "loss_without_boxes"):  # the record is whole
        assert [row[name] for row in rows] == [
            v if (v := row[name]) is None else pytest.approx(v, rel=1e-2) for row in logged
        ]


def test_the_old_class_error_is_100_without_boxes():
    nothing = torch.zeros(0, dtype=torch.long)
    assert class_error(torch.zeros(2, 4, 3), Assignment(nothing, nothing, nothing), nothing) == 100
    index = torch.tensor([0, 1, 2])
    logits = torch.eye(3)[None]
    assert class_error(logits, Assignment(index * 0, index, index), torch.tensor([0, 1, 1])) == pytest.approx(100 / 3)


def test_the_old_cardinality_counts_queries_however_unsure_they_are():
    unsure = torch.full((1, 300, 91), -9.0)
    unsure[..., 0] += 0.01
    assert cardinality_error(unsure, [{"labels": torch.zeros(2)}]) == 298
    assert cardinality_error(unsure + 20, [{"labels": torch.zeros(2)}]) == 298
    unsure[..., -1] += 1
    assert cardinality_error(unsure, [{"labels": torch.zeros(0)}]) == 0


def test_the_old_median_is_of_20_steps_and_the_mean_of_all():
    meters = OldMeters()
    for value in (*[100.0] * 30, *[0.0] * 11, *[5.0] * 9):
        meters.add({"class_error": value, "loss": value})
    assert meters.line(50, 60) == "Epoch: [0]  [50/60]  class_error: 5.00  loss: 0.0000 (60.9000)"
    assert list(deque(meters.values["loss"], 20)) == [0.0] * 11 + [5.0] * 9
