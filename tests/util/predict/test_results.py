"""The rows of a prediction survive a kill, and only the same prediction goes on with them."""

import json

import pytest
import torch

from util.base.errors import UserError
from util.predict.outputs import PROGRESS_FILE
from util.predict.results import ImageResult, ResultFile, boxes_above, make_result

SETTINGS = {"checkpoint": ["a 1"], "scales": [], "draw": "all"}


def row(name, *scores, stamp=(1, 2)):
    return ImageResult(name, stamp, (100, 200), list(scores), [1] * len(scores), [[0.0, 0.0, 10.0, 10.0]] * len(scores))


def test_rows_come_back_in_any_order(tmp_path):
    rows = ResultFile(tmp_path, SETTINGS)
    rows.add([row("ü\udcff<b>.png", 0.1, 0.25), row("b.png")])
    rows.add([row("c.png", 1 / 3)])
    again = ResultFile(tmp_path, SETTINGS)
    for file in (rows, again):
        assert [*file.read(["c.png", "unknown", "ü\udcff<b>.png"])] == [
            row("c.png", 1 / 3),
            row("ü\udcff<b>.png", 0.1, 0.25),
        ]
        assert ("b.png", (1, 2)) in file
        assert ("b.png", (1, 3)) not in file
        assert len(file) == 3


def test_a_row_that_was_torn_is_cut_off(tmp_path):
    ResultFile(tmp_path, SETTINGS).add([row("a.png", 0.5), row("b.png", 0.5)])
    whole = (tmp_path / PROGRESS_FILE).read_bytes()
    starts = [0, *(n + 1 for n, byte in enumerate(whole) if byte == 10)]
    for length in (
        *range(0, len(whole), 7),
        *(start + step for start in starts for step in (-1, 0, 1) if 0 <= start + step < len(whole)),
    ):
        (tmp_path / PROGRESS_FILE).write_bytes(whole[:length])
        rows = ResultFile(tmp_path, SETTINGS)
        assert len(rows) == max(0, sum(start <= length for start in starts[1:]) - 1), length
        rows.add([row("z.png", 0.75)])
        assert [*ResultFile(tmp_path, SETTINGS).read(["z.png"])] == [row("z.png", 0.75)]


def test_a_later_result_of_an_image_counts(tmp_path):
    rows = ResultFile(tmp_path, SETTINGS)
    rows.add([row("a.png", 0.5)])
    rows.add([row("a.png", 0.75, stamp=(9, 9))])
    assert [*ResultFile(tmp_path, SETTINGS).read(["a.png"])] == [row("a.png", 0.75, stamp=(9, 9))]


@pytest.mark.parametrize(("key", "value"), [("checkpoint", ["b 2"]), ("draw", "none"), ("new", 1)])
def test_other_settings_are_refused_with_the_mend(tmp_path, key, value):
    ResultFile(tmp_path, SETTINGS).add([row("a.png")])
    before = (tmp_path / PROGRESS_FILE).read_bytes()
    with pytest.raises(UserError, match=rf"{key} .* instead of .*choose another --output_dir"):
        ResultFile(tmp_path, {**SETTINGS, key: value})
    assert (tmp_path / PROGRESS_FILE).read_bytes() == before


def test_thousands_of_images_make_no_message_of_thousands_of_lines(tmp_path):
    ResultFile(tmp_path, {"images": [f"{n}.png" for n in range(2000)]})
    with pytest.raises(UserError, match=r"is of a prediction with images \['0.png'") as caught:
        ResultFile(tmp_path, {"images": ["1.png"]})
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"name": "x"}\n'])
def test_a_file_of_something_else_is_refused_as_it_is(tmp_path, text):
    for before in ("", json.dumps({"settings": SETTINGS}) + "\n"):
        (tmp_path / PROGRESS_FILE).write_text(before + text)
        with pytest.raises(UserError, match="is no result of a prediction"):
            ResultFile(tmp_path, SETTINGS)
        assert (tmp_path / PROGRESS_FILE).read_text() == before + text


def test_the_score_of_an_image_is_that_of_its_strongest_box():
    assert row("a", 0.1, 0.7, 0.3).score == 0.7
    assert row("a").score is None
    assert row("a", 0.1, 0.7, 0.3).num_above(0.3) == 2


def test_boxes_to_be_shown_are_clipped_and_the_others_are_as_the_network_gives_them():
    found = {"scores": torch.tensor([0.5, 0.25]), "labels": torch.tensor([2, 1])}
    made = make_result("a", (1, 1), (100, 200), {**found, "boxes": torch.tensor([[-5.0, 0, 300, 50], [0, 0, 1, 1]])})
    assert made.boxes[0] == [-5, 0, 300, 50]
    boxes, labels, scores = boxes_above(made, 0.5)
    assert (boxes.tolist(), labels, scores) == ([[0, 0, 200, 50]], [2], [0.5])


@pytest.mark.parametrize("bad", [[0.0, 0, float("nan"), 1], [5.0, 0, 1, 1]])
def test_what_is_no_box_is_no_row(bad):
    found = {"scores": torch.tensor([0.5]), "labels": torch.tensor([2]), "boxes": torch.tensor([bad])}
    with pytest.raises(FloatingPointError, match=r"a\.png: the network gives boxes or scores that are not finite"):
        make_result("a.png", (1, 1), (100, 200), found)
