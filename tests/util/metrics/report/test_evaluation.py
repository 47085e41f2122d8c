import csv
import json

import pytest

from tests.helpers.metric_tables import found_of, truth_of
from util.base.errors import UserError
from util.metrics.operating_point import MARGIN
from util.metrics.report.evaluation import evaluate_tables
from util.metrics.report.file import load_report
from util.metrics.report.gallery import worst_false_positives, worst_misses
from util.metrics.report.protocols import MatchedTables
from util.runlog.run_log import RunLog
from util.training.evaluation import write_evaluation

BOX, FAR = (0, 0, 100, 100), (300, 300, 400, 400)
TRUTH = truth_of([3, 1, 2], [(1, 1, BOX), (1, 2, FAR), (2, 1, BOX)])
FOUND = found_of([3, 1, 2], [(1, 1, BOX, 0.8), (1, 2, BOX, 0.7), (1, 1, FAR, 0.2), (3, 1, BOX, 0.75), (3, 2, FAR, 0.1)])
POINT = {"rule": "youden", "target": 0.9, "threshold": 0.5}


def evaluation(point=POINT):
    return evaluate_tables(TRUTH, FOUND, {3: "sick"}, rule="youden", target=0.9, operating_point=point)


def test_a_given_operating_point_is_used_and_another_is_chosen():
    assert evaluation().values["operating_point/threshold"] == 0.5
    assert "chosen before" in evaluation().text
    here = evaluation(None)
    assert here.operating_point == {**POINT, "threshold": 0.8 - MARGIN}
    assert "chosen on these images" in here.text


def test_a_rule_that_chooses_nothing_leaves_out_what_needs_a_threshold():
    images = TRUTH.on([1, 2])
    here = evaluate_tables(images, FOUND, {}, rule="youden", target=0.9)
    assert here.operating_point == {}
    assert here.text.endswith("no operating point")
    assert not [key for key in here.values if "confusion" in key or "operating" in key]


def test_an_evaluation_leaves_a_line_per_image(tmp_path):
    write_evaluation(evaluation(), RunLog(tmp_path), tmp_path, epoch=1, step=1, labels={"weights": "ema"})
    lines = list(csv.DictReader((tmp_path / "per_image.csv").read_text().splitlines()))
    assert [(row["image_id"], row["group"], row["highest_score"]) for row in lines] == [
        ("1", "tb", "0.8"),
        ("2", "tb", ""),
        ("3", "sick", "0.75"),
    ]
    counts = ("boxes", "detections", "hits", "missed", "false_alarms")
    assert [[int(row[c]) for c in counts] for row in lines] == [[2, 1, 1, 1, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert load_report(tmp_path).threshold == 0.5
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert all(isinstance(value, str | int | float) for value in row.values())


def test_a_report_that_is_cut_short_is_named(tmp_path):
    assert load_report(tmp_path) is None
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json: cannot be read as JSON"):
        load_report(tmp_path)


def test_the_gallery_begins_with_the_least_suspected_box_and_the_strongest_alarm():
    study = MatchedTables(TRUTH, FOUND, {}, 0.5)
    assert worst_misses(study, 5) == [2, 1]  # nothing at all on 2; the far box of 1 was suspected with 0.2
    assert worst_false_positives(study, 5) == [3]
    assert worst_misses(study, 1) == [2]


def test_the_gallery_goes_by_the_operating_point():
    at = {threshold: MatchedTables(TRUTH, FOUND, {}, threshold) for threshold in (0.15, 0.5, 0.76, None)}
    assert {key: worst_misses(study, 5) for key, study in at.items()} == {
        0.15: [2],
        0.5: [2, 1],
        0.76: [2, 1],
        None: [2],
    }
    alarms = {key: worst_false_positives(study, 5) for key, study in at.items()}
    assert alarms == {0.15: [3], 0.5: [3], 0.76: [], None: [3]}


def test_two_boxes_that_one_detection_overlaps_are_one_miss_as_in_the_table_of_images():
    truth = truth_of([1], [(1, 1, BOX), (1, 1, (0, 0, 100, 90))])
    study = MatchedTables(truth, found_of([1], [(1, 1, BOX, 0.8)]), {}, 0.5)
    assert worst_misses(study, 5) == [1]


def test_the_facts_of_a_report_say_who_chose_the_operating_point():
    assert evaluation().facts["operating_point"] == {**POINT, "origin": "checkpoint"}
    assert evaluation({**POINT, "rule": "given"}).facts["operating_point"]["origin"] == "given"
    assert evaluation(None).facts["operating_point"]["origin"] == "these images"
