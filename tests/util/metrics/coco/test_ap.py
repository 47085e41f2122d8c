"""Hand-computed answers, properties, and equality with pycocotools run the ordinary way, through json files."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.metric_tables import found_of, permuted, random_tables, report, truth_of
from tests.helpers.references import coco as coco_reference
from util.metrics.coco.ap import METRICS, coco_ap, per_category
from util.metrics.coco.match import descending
from util.metrics.froc import FPPI_RATES
from util.metrics.matching import as_one_class
from util.metrics.tables import Detections

SHARED = Path(__file__).resolve().parents[5] / "shared"
SEEDS = st.integers(0, 2**32 - 1)


def raw_pycocotools(truth, found, folder):
    """[12] figures as COCOeval prints them, from json files."""
    xywh = [np.concatenate([t.xyxy[:, :2], t.xyxy[:, 2:] - t.xyxy[:, :2]], axis=1).tolist() for t in (truth, found)]
    annotations = [
        {"id": n + 1, "image_id": i, "category_id": k, "bbox": b, "area": a, "iscrowd": c}
        for n, (i, k, b, a, c) in enumerate(
            zip(
                truth.image_id.tolist(),
                truth.label.tolist(),
                xywh[0],
                truth.area.tolist(),
                truth.is_crowd.astype(int).tolist(),
                strict=True,
            )
        )
    ]
    results = [
        {"image_id": i, "category_id": k, "bbox": b, "score": s}
        for i, k, b, s in zip(found.image_id.tolist(), found.label.tolist(), xywh[1], found.score.tolist(), strict=True)
    ]
    categories = [{"id": k, "name": name} for k, name in truth.names.items()]
    images = [{"id": i} for i in truth.images]
    (folder / "truth.json").write_text(
        json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories})
    )
    (folder / "found.json").write_text(json.dumps(results))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def assert_figures(ours, theirs, tolerance=1e-12):
    """Ours leaves out what theirs marks with -1."""
    assert set(ours) == {k for k, v in theirs.items() if v > -1}
    for key, value in ours.items():
        assert value == pytest.approx(theirs[key], abs=tolerance), key


BOX = (10, 10, 110, 110)
FAR = (300, 300, 400, 400)


def test_a_perfect_detection_scores_one_in_everything():
    values = coco_ap(truth_of([1], [(1, 1, BOX)]), found_of([1], [(1, 1, BOX, 0.4)]))
    assert values == pytest.approx({k: 1.0 for k in METRICS if "small" not in k and "medium" not in k})


def test_a_stronger_false_alarm_on_an_image_without_boxes_halves_ap():
    truth = truth_of([1, 2], [(1, 1, BOX)])
    found = found_of([1, 2], [(1, 1, BOX, 0.8), (2, 1, FAR, 0.9)])
    assert coco_ap(truth, found)["AP"] == pytest.approx(0.5)
    assert coco_ap(truth.on([1]), found)["AP"] == pytest.approx(1.0)


def test_a_weaker_false_alarm_does_not_touch_ap():
    found = found_of([1, 2], [(1, 1, BOX, 0.8), (2, 1, FAR, 0.7)])
    assert coco_ap(truth_of([1, 2], [(1, 1, BOX)]), found)["AP"] == pytest.approx(1.0)


def test_missing_one_of_two_boxes_leaves_the_recall_levels_up_to_one_half():
    values = coco_ap(truth_of([1], [(1, 1, BOX), (1, 1, FAR)]), found_of([1], [(1, 1, BOX, 0.8)]))
    assert values["AP"] == pytest.approx(51 / 101)  # 0, 0.01 ... 0.50
    assert values["AR100"] == pytest.approx(0.5)


def test_an_overlap_of_62_percent_passes_three_of_ten_thresholds():
    values = coco_ap(truth_of([1], [(1, 1, (0, 0, 100, 100))]), found_of([1], [(1, 1, (0, 0, 100, 62), 0.8)]))
    assert (values["AP50"], values["AP75"]) == pytest.approx((1.0, 0.0))
    assert values["AP"] == pytest.approx(0.3)


def test_recall_counts_the_detections_allowed_per_image():
    truth = truth_of([1], [(1, 1, BOX), (1, 1, FAR)])
    values = coco_ap(truth, found_of([1], [(1, 1, BOX, 0.8), (1, 1, FAR, 0.7)]))
    assert (values["AR1"], values["AR10"]) == (0.5, 1.0)


def test_a_class_without_truth_is_in_no_mean():
    truth = truth_of([1], [(1, 1, BOX), (1, 2, FAR)])
    found = found_of([1], [(1, 1, BOX, 0.8), (1, 3, FAR, 0.9)])
    assert coco_ap(truth, found)["AP"] == pytest.approx(0.5)
    assert {name: v["AP"] for name, v in per_category(truth, found).items()} == pytest.approx(
        {"red": 1.0, "green": 0.0}
    )


def test_a_crowd_is_no_truth_to_find_and_excuses_detections_in_it():
    truth = truth_of([1], [(1, 1, BOX), (1, 1, FAR, True), (1, 2, FAR, True)])
    found = found_of([1], [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8), (1, 2, BOX, 0.9)])
    assert {name: v["AP"] for name, v in per_category(truth, found).items()} == pytest.approx({"red": 1.0})


def test_size_classes_go_by_the_area_column_not_by_the_box():
    truth = replace(truth_of([1], [(1, 1, BOX)]), area=np.array([50.0 * 50.0]))
    values = coco_ap(truth, found_of([1], [(1, 1, BOX, 0.8)]))
    assert "AP_large" not in values
    assert values["AP_medium"] == pytest.approx(1.0)


def test_nothing_is_defined_without_truth():
    truth, found = truth_of([1], []), found_of([1], [(1, 1, BOX, 0.8)])
    assert coco_ap(truth, found) == {}
    assert per_category(truth, found) == {}
    assert coco_ap(truth_of([], []), found_of([], [])) == {}


def test_finding_nothing_scores_zero():
    assert set(coco_ap(truth_of([1], [(1, 1, BOX)]), found_of([1], [])).values()) == {0.0}


def test_the_right_box_under_the_wrong_label_counts_only_class_agnostic():
    truth, found = truth_of([1], [(1, 1, BOX)]), found_of([1], [(1, 2, BOX, 0.8)])
    assert coco_ap(truth, found)["AP"] == 0.0
    assert coco_ap(as_one_class(truth), as_one_class(found))["AP"] == pytest.approx(1.0)


def test_an_image_that_was_never_evaluated_is_refused():
    with pytest.raises(ValueError, match=r"1 images of the ground truth are not among them.*\[2\]"):
        coco_ap(truth_of([1, 2], [(1, 1, BOX)]), found_of([1], [(1, 1, BOX, 0.8)]))


def test_nothing_is_printed(capfd):
    coco_ap(*random_tables(0))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ties", [False, True])
@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_the_figures_are_those_of_pycocotools(tmp_path_factory, ties, seed):
    truth, found = random_tables(seed, ties)
    if not len(found):
        return  # loadRes cannot read an empty list
    theirs = raw_pycocotools(truth, found, tmp_path_factory.mktemp("coco"))
    assert_figures(coco_ap(truth, found), theirs)


@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_the_order_of_rows_and_images_changes_nothing(seed):
    truth, found = random_tables(seed)
    assert per_category(*permuted(truth, found, seed)) == per_category(truth, found)


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_equal_overlaps_and_pairs_compared_a_few_at_a_time_equal_pycocotools_to_the_last_digit(seed):
    """On a coarse grid many boxes are the same box."""
    tables = random_tables(seed, ties=bool(seed % 2))
    truth, found = (replace(table, xyxy=(table.xyxy / 40).round() * 40) for table in tables)
    with mock.patch("util.metrics.coco.match.PAIRS_AT_ONCE", 7):
        assert per_category(truth, found) == coco_reference.per_category(truth, found)


@given(st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1), max_size=60))
def test_the_order_of_scores_is_that_of_a_stable_sort(scores):
    scores = np.array(scores, dtype=float)
    assert descending(scores).tolist() == sorted(range(len(scores)), key=lambda i: -scores[i])


@pytest.mark.parametrize("ties", [False, True])
@given(SEEDS)
@settings(deadline=None, max_examples=60)
def test_each_category_equals_pycocotools_to_the_last_digit(ties, seed):
    truth, found = random_tables(seed, ties)
    assert per_category(truth, found) == coco_reference.per_category(truth, found)


@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_an_image_without_truth_and_detections_changes_nothing(seed):
    truth, found = random_tables(seed)
    more = (*truth.images, 99)
    assert per_category(replace(truth, images=more), replace(found, images=more)) == per_category(truth, found)


@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_a_strongest_false_alarm_never_helps(seed):
    truth, found = random_tables(seed)
    more = (*truth.images, 99)
    alarm = found_of([99], [(99, 1, BOX, 2.0)])
    columns = {
        c: np.concatenate([getattr(found, c), getattr(alarm, c)]) for c in ("image_id", "label", "xyxy", "score")
    }
    worse = coco_ap(replace(truth, images=more), Detections(images=more, **columns))
    assert all(worse[k] <= v for k, v in coco_ap(truth, found).items())


def golden_tables():
    annotations = SHARED / "tbx11k/annotations/json/TBX11K_val.json"
    predictions = SHARED / "eval/predictions_tb200_top100.json.gz"
    expected = SHARED / "eval/expected_top100.json"
    if not (annotations.is_file() and predictions.is_file() and expected.is_file()):
        pytest.skip("the real annotations and predictions are not beside the repository")
    data = json.loads(annotations.read_text())
    corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in data["annotations"])]
    rows = [(a["image_id"], a["category_id"], box) for a, box in zip(data["annotations"], corners, strict=True)]
    truth = truth_of([i["id"] for i in data["images"]], rows)
    names = {c["id"]: c["name"] for c in data["categories"]}
    truth = replace(truth, names=names, area=np.array([float(a["area"]) for a in data["annotations"]]))
    said = json.loads(gzip.decompress(predictions.read_bytes()))
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (d["bbox"] for d in said)]
    rows = [(d["image_id"], d["category_id"], b, d["score"]) for d, b in zip(said, boxes, strict=True)]
    tb = sorted(set(truth.image_id.tolist()))
    return truth.on(tb), found_of(tb, rows), json.loads(expected.read_text())["coco"]


def renamed(expected):
    return {k: expected[k.replace("AR1", "AR_max1") if k[:3] == "AR1" else k] for k in METRICS}


@pytest.mark.data
def test_real_predictions_score_what_pycocotools_says():
    truth, found, expected = golden_tables()
    assert_figures(coco_ap(truth, found), renamed(expected["three_categories_200_tb_images"]), 1e-9)
    agnostic = coco_ap(as_one_class(truth), as_one_class(found))
    assert_figures(agnostic, renamed(expected["class_agnostic_200_tb_images"]), 1e-9)
    categories = per_category(truth, found)
    assert set(categories) == {"ActiveTuberculosis", "ObsoletePulmonaryTuberculosis"}
    for name, values in categories.items():
        assert_figures(values, renamed(expected["per_category"][name]), 1e-9)
    assert categories == coco_reference.per_category(truth, found)


@pytest.mark.data
def test_real_predictions_have_the_sensitivities_that_are_expected():
    truth, found, _ = golden_tables()
    values = report(truth, found)
    expected = json.loads((SHARED / "eval/expected_top100.json").read_text())
    once = renamed(expected["coco"]["class_agnostic_dedup_200_tb_images"])
    assert_figures({k: values[f"tb_only/agnostic_once/{k}"] for k in once if once[k] > -1}, once, 1e-9)
    parts = {
        "per_class": expected["froc_class_aware_200_images"],
        "agnostic": expected["froc_class_agnostic_same_box_counted_once_200_images"],
    }
    for measure, stated in parts.items():
        for rate in FPPI_RATES:
            ours = values[f"tb_only/{measure}/froc@{rate:g}"]
            assert ours == pytest.approx(stated[str(rate)]["sensitivity"], abs=1e-9), (measure, rate)
        assert values[f"tb_only/{measure}/froc_mean"] == pytest.approx(stated["mean_7_points_0.125_to_8"], abs=1e-9)
