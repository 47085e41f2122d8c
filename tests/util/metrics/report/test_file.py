import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.annotations.split import load_split
from tests.helpers.metric_tables import found_of, permuted, random_tables, truth_of
from util.base.errors import UserError
from util.metrics.files import load_detections, save_detections, save_ground_truth, save_report
from util.metrics.report.file import facts_of_tables, fingerprint, load_report

TRUTH = truth_of([1, 2], [(1, 1, (0, 0, 10, 10)), (1, 2, (5, 5, 9, 9), True)])
FOUND = found_of([1, 2], [(1, 1, (0, 0, 10, 10), 0.5), (2, 1, (0, 0, 5, 5), 0.25)])
FACTS = {**facts_of_tables(TRUTH, FOUND), "list": "val", "operating_point": {}}


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_fingerprint_outlives_writing_and_reading(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("f")
    truth, found = random_tables(seed)
    found = replace(found, xyxy=found.xyxy.astype(np.float32).astype(np.float64))  # as a network's are
    save_ground_truth(folder / "t.json", truth)
    save_detections(folder / "d.json", found)
    again = load_split(folder, folder / "t.json").ground_truth()
    assert fingerprint(again) == fingerprint(truth)
    assert fingerprint(load_detections(folder / "d.json", again.images)) == fingerprint(found)


@given(st.integers(0, 10_000))
def test_the_order_of_an_annotation_file_is_no_other_ground_truth(seed):
    truth, found = random_tables(seed)
    assert fingerprint(permuted(truth, found, seed)[0]) == fingerprint(truth)


def test_whatever_a_metric_depends_on_changes_the_fingerprint():
    changed = [
        replace(TRUTH, images=(1, 2, 3)),
        replace(TRUTH, files={1: "1.png", 2: "x.png"}),
        replace(TRUTH, names={1: "red"}),
        replace(TRUTH, label=np.array([2, 2])),
        replace(TRUTH, image_id=np.array([2, 1])),
        replace(TRUTH, is_crowd=np.array([False, False])),
        replace(TRUTH, area=TRUTH.area + 1),
        replace(TRUTH, xyxy=TRUTH.xyxy + 0.01),
        replace(FOUND, score=FOUND.score + 1e-9),
        replace(FOUND, xyxy=FOUND.xyxy + 0.01),
        replace(FOUND, label=np.array([1, 2])),
        replace(FOUND, image_id=np.array([1, 1])),
        TRUTH,
        FOUND,
    ]
    assert len({fingerprint(table) for table in changed}) == len(changed)


def test_metrics_stay_flat_and_the_facts_have_one_key(tmp_path):
    save_report(tmp_path / "report.json", {"b/AP": 0.5, "b/AP/ci95": [0.4, 0.6]}, FACTS)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == {"b/AP": 0.5, "b/AP/ci95": [0.4, 0.6], "evaluated": FACTS}
    report = load_report(tmp_path)
    assert report.metrics == {"b/AP": 0.5, "b/AP/ci95": [0.4, 0.6]}
    assert report.facts == FACTS
    report.require(ground_truth=TRUTH, detections=FOUND, source="here")
    for table in (
        {"ground_truth": replace(TRUTH, images=(1, 2, 3))},
        {"detections": replace(FOUND, score=FOUND.score / 2)},
    ):
        with pytest.raises(
            UserError, match=r"here: is not the .* that of val, 2 images, 1 with boxes, 1 boxes: one of"
        ):
            report.require(**table, source="here")


def test_an_older_report_is_read_and_cannot_tell(tmp_path):
    assert load_report(tmp_path) is None
    save_report(tmp_path / "report.json", {"operating_point/threshold": 0.5})
    report = load_report(tmp_path)
    assert (report.threshold, report.facts) == (0.5, {})
    report.require(ground_truth=TRUTH, detections=FOUND, source="here")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"all/AP": "0.5"},
        {"all/AP": True},
        {"all/AP": None},
        {"all/AP": {}},
        {"all/AP": float("nan")},
        {"all/AP/ci95": [0.1]},
        {"all/AP/ci95": [0.1, "x"]},
        {"evaluated": None},
        {"evaluated": []},
        {"evaluated": {"list": "val"}},
        {"evaluated": {**FACTS, "images": "2"}},
        {"evaluated": {**FACTS, "list": ["val"]}},
        {"evaluated": {**FACTS, "checkpoint": 1}},
        {"evaluated": {**FACTS, "boxes_by_category": {"1": "x"}}},
        {"evaluated": {**FACTS, "category_names": {"1": 1}}},
        {"evaluated": {**FACTS, "operating_point": {"rule": []}}},
    ],
)
def test_a_report_that_cannot_be_believed_is_one_clear_error(tmp_path, content):
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"report\.json: .*evaluate"):
        load_report(tmp_path)
