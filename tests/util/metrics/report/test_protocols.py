import numpy as np
import pytest

from tests.helpers.metric_tables import report
from util.metrics.coco.ap import METRICS
from util.metrics.report.text_table import FROC_COLUMNS, format_table
from util.metrics.tables import Detections, GroundTruth

A, B = (10, 10, 110, 110), (300, 300, 400, 400)
NAMES = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}


def tables(images=(1, 2)):
    """Image 1: A is label 1 and found as 1, B is label 2 and found as 1. Image 2: empty, the strongest alarm."""
    truth = GroundTruth(
        images=images,
        image_id=np.array([1, 1]),
        label=np.array([1, 2]),
        xyxy=np.array([A, B], dtype=float),
        area=np.array([1e4, 1e4]),
        is_crowd=np.zeros(2, dtype=bool),
        names=NAMES,
        sizes=dict.fromkeys(images, (512, 512)),
        files={i: f"{i}.png" for i in images},
    )
    image_id, label = np.array([1, 1, 2]), np.array([1, 1, 1])
    return truth, Detections(images, image_id, label, np.array([A, B, B], dtype=float), np.array([0.8, 0.7, 0.9]))


def words(line):
    return " ".join(line.split())


def test_the_report_holds_each_view_and_measure_under_its_key():
    values = report(*tables())
    # A comes second of two at recall 1; then false alarms no longer matter
    assert values["all/per_class/ActiveTuberculosis/AP"] == pytest.approx(1 / 2)
    assert values["all/per_class/ObsoletePulmonaryTuberculosis/AP"] == 0.0
    assert values["all/per_class/AP"] == pytest.approx(1 / 4)
    # class-agnostic: 0/1, 1/2, 2/3 -> 2/3 at every recall level
    assert values["all/agnostic/AP50"] == pytest.approx(2 / 3)
    assert values["tb_only/agnostic/AP"] == pytest.approx(1.0)
    assert values["tb_only/per_class/AP"] == pytest.approx(1 / 2)


def test_the_report_leaves_out_what_has_no_truth():
    values = report(*tables(), kinds={1: "tb", 2: "sick"}, threshold=0.5)
    assert not [k for k in values if "/PulmonaryTuberculosis/" in k or "small" in k]
    for measure in ("agnostic", "agnostic_once", "per_class", "per_class/ActiveTuberculosis"):
        keys = {
            k.rpartition("/")[2]
            for k in values
            if k.startswith(f"all/{measure}/") and k.count("/") == 2 + measure.count("/")
        }
        assert {k for k in METRICS if "small" not in k and "medium" not in k} <= keys
        assert {k for k in keys if k not in METRICS} <= {*FROC_COLUMNS, "ActiveTuberculosis"}


def test_a_split_without_boxes_has_an_empty_report():
    truth, found = tables()
    values = report(truth.on([2]), found.on([2]))
    assert values == {}
    assert "1 image, 0 with boxes; 0 boxes" in format_table(values, truth.on([2]))


def test_the_table_reads_row_by_row():
    truth, found = tables()
    lines = format_table(report(truth, found, kinds={2: "sick"}, threshold=0.75), truth).splitlines()
    assert lines[0] == "2 images, 1 with boxes; 2 boxes"
    assert words(lines[1]) == "all images (2) AP AP50 AP75 small medium large AR100 boxes"
    assert words(lines[2]) == "class-agnostic 0.667 0.667 0.667 - - 0.667 1.000 2"
    assert words(lines[3]) == "mean over classes (mAP) 0.250 0.250 0.250 - - 0.250 0.500 2"
    assert words(lines[6]) == "PulmonaryTuberculosis - - - - - - - 0"
    assert lines[7].split()[:4] == ["images", "with", "boxes", "(1)"]
    assert words(lines[13]) == "FROC: sensitivity at FPPI of 0.125 0.25 0.5 1 2 4 8 mean"
    # of two images: the alarm of 0.9 is half an alarm per image, both boxes come after it
    assert words(lines[14]) == "all images, class-agnostic 0.000 0.000 1.000 1.000 1.000 1.000 1.000 0.714"
    assert words(lines[15]) == "all images, per class 0.000 0.000 0.500 0.500 0.500 0.500 0.500 0.357"
    assert words(lines[18]) == "image level"
    assert words(lines[19]) == "AUC: 0.000"
    assert words(lines[-1]) == "false positives per negative image (FPPI): 1.000"


def test_intervals_stand_beside_their_figures():
    truth, found = tables()
    text = format_table(report(truth, found, draws=20), truth)
    assert "class-agnostic, 95 %" in text
    assert text.count("AP50 [") == 4


def test_the_table_fits_a_log_of_100_columns_and_lines_up():
    truth, found = tables()
    values = report(truth, found, kinds={2: "sick"}, threshold=0.75, draws=20)
    lines = format_table(values, truth).splitlines()
    assert max(map(len, lines)) <= 100
    assert len({len(line) for line in lines if "AP75" in line or "class-agnostic " in line}) == 1


def test_a_category_that_is_called_as_a_line_of_the_table_makes_none():
    truth, found = tables()
    num = len(format_table(report(truth, found), truth).splitlines())
    truth = GroundTruth(**{**vars(truth), "names": {**truth.names, 1: "x\ndoctor: healthy\r\x1b[31m"}})
    lines = format_table(report(truth, found), truth).splitlines()
    assert len(lines) == num
    assert sum(r"x\ndoctor: healthy\r\x1b[31m" in line for line in lines) == 2


def test_a_crowd_is_not_counted_as_a_box():
    truth, found = tables()
    truth = GroundTruth(**{**vars(truth), "is_crowd": np.array([False, True])})
    lines = format_table(report(truth, found), truth).splitlines()
    assert lines[0] == "2 images, 1 with boxes; 1 box"
    assert words(lines[5]) == "ObsoletePulmonaryTuberculosis - - - - - - - 0"
