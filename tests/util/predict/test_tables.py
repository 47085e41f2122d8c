"""The files of a prediction, as other programs read them."""

import csv
import json

import pytest

from util.metrics.files import load_detections
from util.predict.outputs import OutputSettings
from util.predict.results import ImageResult
from util.predict.tables import write_tables

NAMES = {1: "Active", 2: "=Obsolete"}
ROWS = [
    (
        7,
        ImageResult("a/x, y.png", (1, 1), (100, 200), [0.9, 0.1], [2, 1], [[-5.0, 0, 20.5, 30], [1.0, 1, 2, 2]]),
    ),
    (3, ImageResult("=cmd|x.png", (1, 1), (50, 60), [], [], [])),
    (5, ImageResult("ü\udcff\n.png", (1, 1), (10, 10), [0.2], [1], [[0.1, 0.2, 0.3, 0.4]], "pictures/p.png")),
]


@pytest.fixture
def folder(tmp_path):
    write_tables(OutputSettings(tmp_path, "all", NAMES, 0.5, "TB score"), lambda: iter(ROWS))
    return tmp_path


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_detections_are_a_coco_results_file_with_names(folder):
    found = load_detections(folder / "detections.json", [3, 5, 7])
    assert found.image_id.tolist() == [7, 7, 5]
    assert found.xyxy[0].tolist() == [-5, 0, 20.5, 30]
    rows = json.loads((folder / "detections.json").read_text())
    assert [row["file_name"] for row in rows] == ["a/x, y.png", "a/x, y.png", "ü\udcff\n.png"]
    assert [row["id"] for row in rows] == [1, 2, 3]


def test_boxes_that_count_are_clipped_lines(folder):
    assert lines(folder / "detections.csv") == [
        {
            **{"image_id": "7", "file_name": "a/x, y.png", "category_id": "2", "category": "./=Obsolete"},
            **{"score": "0.9", "x1": "0.00", "y1": "0.00", "x2": "20.50", "y2": "30.00"},
        }
    ]


def test_each_image_has_a_line_with_its_score(folder):
    told = lines(folder / "images.csv")
    assert [(t["image_id"], t["tb_score"], t["is_positive"], t["boxes"]) for t in told] == [
        ("7", "0.9", "1", "1"),
        ("3", "", "0", "0"),
        ("5", "0.2", "0", "0"),
    ]
    assert told[1]["file_name"] == "./=cmd|x.png"
    assert told[2]["picture"] == "pictures/p.png"


def test_which_id_is_which_file(folder):
    listed = json.loads((folder / "images.json").read_text())
    assert listed["images"][0] == {"id": 7, "file_name": "a/x, y.png", "height": 100, "width": 200}
    assert listed["categories"] == [{"id": 1, "name": "Active"}, {"id": 2, "name": "=Obsolete"}]


def test_no_images_give_whole_files(tmp_path):
    write_tables(OutputSettings(tmp_path, "all", NAMES, 0.5, "TB score"), lambda: iter([]))
    assert len(load_detections(tmp_path / "detections.json", [])) == 0
    assert lines(tmp_path / "images.csv") == lines(tmp_path / "detections.csv") == []
