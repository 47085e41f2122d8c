import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from util.base.files import WriteError
from util.metrics.files import DetectionsError, load_detections, save_detections, save_report
from util.metrics.tables import Detections

IMAGES = (4, 2, 9)
ROW = {"image_id": 4, "category_id": 1, "bbox": [1.0, 2.0, 30.0, 40.5], "score": 0.5}


def detections(seed, n):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-20, 400, (n, 2)), rng.uniform(0, 200, (n, 2))
    xyxy = np.concatenate([corner, corner + size], axis=1).astype(np.float32).astype(np.float64)
    score = rng.random(n, dtype=np.float32).astype(np.float64)
    return Detections(IMAGES, rng.choice(IMAGES, n), rng.integers(1, 4, n), xyxy, score)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["found.json", "found.json.gz"])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 20))
def test_detections_from_float32_come_back_bit_for_bit(tmp_path_factory, name, seed, n):
    path, found = tmp_path_factory.mktemp("files") / name, detections(seed, n)
    save_detections(path, found)
    again = load_detections(path, IMAGES)
    assert again.images == found.images
    for column in ("image_id", "label", "xyxy", "score"):
        np.testing.assert_array_equal(getattr(again, column), getattr(found, column))
        assert getattr(again, column).dtype == getattr(found, column).dtype


def test_pycocotools_reads_what_was_saved(tmp_path, capsys):
    found = detections(1, 5)
    save_detections(tmp_path / "found.json", found)
    coco = COCO()
    coco.dataset = {"images": [{"id": i} for i in IMAGES], "categories": [], "annotations": []}
    coco.createIndex()
    read = coco.loadRes(str(tmp_path / "found.json")).dataset["annotations"]
    capsys.readouterr()
    assert [a["image_id"] for a in read] == found.image_id.tolist()
    np.testing.assert_allclose([a["bbox"][2] for a in read], found.xyxy[:, 2] - found.xyxy[:, 0])


def test_two_queries_that_say_the_same_are_two_detections(tmp_path):
    box = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    found = Detections(IMAGES, np.array([4, 4]), np.array([1, 1]), box, np.array([0.5, 0.5]))
    save_detections(tmp_path / "found.json", found)
    assert len(load_detections(tmp_path / "found.json", IMAGES)) == 2


def test_the_same_detections_give_the_same_file(tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        save_detections(tmp_path / name, detections(3, 4))
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"score": float("nan")}, "score must be a finite number, got nan"),
        ({"score": float("inf")}, "score must be a finite number"),
        ({"score": "0.5"}, "score must be a finite number, got '0.5'"),
        ({"score": True}, "score must be a finite number"),
        ({"bbox": ["1", "2", "3", "4"]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3]}, "bbox must be four finite numbers"),
        ({"bbox": "1 2 3 4"}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "bbox must be four finite numbers"),
        ({"bbox": [50, 50, -10, 10]}, "negative width or height"),
        ({"image_id": 5}, "image_id 5 is none of the 3 images"),
        ({"image_id": "4"}, "image_id '4' is none"),
        ({"image_id": True}, "image_id True is none"),
        ({"category_id": 1.0}, "category_id must be a whole number"),
        ({"category_id": -1}, "category_id must be a whole number"),
    ],
)
def test_a_bad_row_is_named(tmp_path, changes, complaint):
    path = written(tmp_path / "found.json", [ROW, ROW | {"score": 0.4}, ROW | changes])
    with pytest.raises(DetectionsError) as error:
        load_detections(path, IMAGES)
    assert f"{path}: row 2 (from 0): " in str(error.value)
    assert complaint in str(error.value)


@pytest.mark.parametrize("row", [[1, 2], "text", {k: v for k, v in ROW.items() if k != "score"}])
def test_a_row_that_is_no_detection_is_named(tmp_path, row):
    with pytest.raises(DetectionsError, match=r"row 1 \(from 0\): expected an object with image_id"):
        load_detections(written(tmp_path / "found.json", [ROW, row]), IMAGES)


def test_a_detection_written_twice_under_one_id_is_named(tmp_path):
    row = ROW | {"id": 7}
    path = written(tmp_path / "found.json", [row, ROW | {"score": 0.4, "id": 8}, row])
    with pytest.raises(DetectionsError, match=r"row 2 \(from 0\): the same detection as row 0"):
        load_detections(path, IMAGES)


def test_a_file_written_twice_is_refused(tmp_path):
    rows = [ROW, ROW | {"score": 0.4}]
    with pytest.raises(
        DetectionsError, match=r"row 2 \(from 0\): the same detection as row 0; was the file written tw"
    ):
        load_detections(written(tmp_path / "found.json", rows + rows), IMAGES)


def test_rounding_may_make_two_detections_the_same(tmp_path):
    path = written(tmp_path / "found.json", [ROW, ROW | {"score": 0.4}, ROW])
    assert load_detections(path, IMAGES).score.tolist() == [0.5, 0.4, 0.5]


@pytest.mark.parametrize("content", ["", "[{", "{}", '"text"', "3"])
def test_a_file_that_is_no_list_is_refused_by_name(tmp_path, content):
    with pytest.raises(DetectionsError, match=r"found\.json: (cannot be read as JSON|expected a list)"):
        load_detections(written(tmp_path / "found.json", content), IMAGES)


def test_a_compressed_file_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "found.json.gz"
    path.write_bytes(gzip.compress(json.dumps([ROW] * 50).encode())[:-20])
    with pytest.raises(DetectionsError, match=r"found\.json\.gz: cannot be read"):
        load_detections(path, IMAGES)
    path.write_text("not compressed")
    with pytest.raises(DetectionsError, match=r"found\.json\.gz: cannot be read"):
        load_detections(path, IMAGES)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DetectionsError, match=r"not found: .*found\.json"):
        load_detections(tmp_path / "found.json", IMAGES)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_not_saved(tmp_path, score):
    bad = Detections(IMAGES, np.array([4]), np.array([1]), np.array([[0.0, 0, 1, 1]]), np.array([score]))
    with pytest.raises(DetectionsError, match="not written: row 0"):
        save_detections(tmp_path / "found.json", bad)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    save_detections(path, detections(1, 3))
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match="disk full"):
        save_detections(path, detections(2, 9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_is_sorted_plain_json(tmp_path):
    save_report(tmp_path / "report.json", {"b/AP": np.float64(0.25), "a/AP": 1})
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text) == {"a/AP": 1.0, "b/AP": 0.25}
    assert text.index("a/AP") < text.index("b/AP")


def test_a_report_with_a_figure_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not finite: all/AP"):
        save_report(tmp_path / "report.json", {"all/AP": float("nan"), "x": 1.0})
    assert not list(tmp_path.iterdir())


WEIRD: list[object] = [
    None,
    True,
    "5",
    "",
    -1,
    -0.5,
    float("nan"),
    float("inf"),
    10**400,
    2**63,
    2**31,
    [],
    [1, 2, 3],
    {},
    [1, 2, 3, "4"],
]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_row_with_anything_in_it_is_read_or_named(tmp_path_factory, data):
    rows = [{"image_id": i, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.1 * i} for i in (1, 2, 3)]
    number, key = data.draw(st.integers(0, 2)), data.draw(st.sampled_from(["image_id", "category_id", "bbox", "score"]))
    rows[number][key] = data.draw(st.sampled_from(WEIRD))
    if data.draw(st.booleans()):
        rows[number] = data.draw(st.sampled_from([rows[number], None, [], "row", {"bbox": 1}]))
    path = tmp_path_factory.mktemp("rows") / "D.json"
    path.write_text(json.dumps(rows))
    found, error = None, ""
    try:
        found = load_detections(path, [1, 2, 3])
    except DetectionsError as problem:
        error = str(problem)
    assert found is None or np.isfinite(found.xyxy).all()
    assert found is not None or f"row {number} (from 0): " in error
