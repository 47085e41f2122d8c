import math

from hypothesis import given, settings
from hypothesis import strategies as st

from util.doctor.official_logs.console import LogParser, json_row, means

LINE = "Epoch: [{}]  [ {}/100]  eta: 0:00:01  lr: 0.000100  class_error: 50.00  loss: 0.5000 ({})  time: 0.1  data: 0.0"
PIECES: tuple[str, ...] = (
    "Epoch: [1]  [ 0/9]",
    " loss: 1.0 (nan)",
    "Test:  [ 0/9]",
    "Averaged stats: loss: 1 (2)",
    '{"train_loss": ',
)
PIECES += (
    "Namespace(",
    "focal_alpha=1e999",
    "num_queries=9.9.9",
    " (AP) @[ IoU=0.50 | area= all | maxDets=100 ] = 0.1",
)


def read(*lines):
    reading = LogParser()
    for line in lines:
        reading.feed(line)
    reading.finish()
    return reading


def test_means_are_the_figures_in_brackets_and_the_rate():
    assert means(LINE.format(0, 0, 0.75)) == {"loss": 0.75, "lr": 0.0001}
    assert math.isnan(means("loss: nan (nan)")["loss"])
    assert means("Averaged stats: lr: 0.001  class_error: 100.00  loss_ce: 1e-05 (2.5e-05)") == {
        "lr": 0.001,
        "loss_ce": 2.5e-05,
    }


def test_the_last_line_of_an_epoch_counts_and_a_repeated_epoch_replaces():
    lines = [LINE.format(e, i, v) for e, i, v in [(0, 0, 1), (0, 50, 2), (1, 0, 3), (1, 90, 4), (0, 0, 5), (0, 10, 6)]]
    reading = read(*lines)
    assert [(e.number, e.values["train_loss"], e.is_whole) for e in reading.epochs()] == [(0, 6.0, False)]
    assert reading.shown["class_error"] == 6


def test_an_epoch_is_whole_with_its_last_step_its_average_or_the_next_epoch():
    assert read(LINE.format(0, 99, 1)).epochs()[0].is_whole
    assert not read(LINE.format(0, 98, 1)).epochs()[0].is_whole
    assert read(LINE.format(0, 98, 1), "Averaged stats: loss: 1 (2)").epochs()[0].is_whole
    assert read(LINE.format(0, 98, 1), "Epoch: [0] Total time: 0:16:08 (0.13 s / it)").epochs()[0].is_whole
    assert read(LINE.format(0, 98, 1), LINE.format(1, 0, 1)).epochs()[0].is_whole


def test_a_time_stamp_before_a_line_does_not_hide_it():
    stamped = "\x1b[32m[11/16 21:19:00.102]: \x1b[0m" + LINE.format(7, 99, 1.5)
    assert [(e.number, e.values["train_loss"]) for e in read(stamped).epochs()] == [(7, 1.5)]


def test_only_objects_with_official_names_are_rows():
    assert json_row('{"test_loss": nan, "epoch": 1}') is not None
    assert json_row('{"train_loss": 1, "kind": "train"}') is None
    assert json_row('{"loss": 1}') is None
    assert json_row('{"train_loss": [') is None
    assert json_row('{"train_loss":' + "[" * 100_000) is None


@settings(max_examples=40)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), max_size=8))
def test_no_text_breaks_the_reader(lines):
    assert all(epoch.number >= 0 for epoch in read(*lines).epochs())
