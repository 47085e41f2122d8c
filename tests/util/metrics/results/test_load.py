import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.metrics.files import DetectionsError
from util.metrics.results.box_format import UNIT, BoxFormat, parse_scale
from util.metrics.results.load import GivenFormat, load_results
from util.metrics.tables import GroundTruth

FILES = {1: "tb/x001.png", 2: "tb/x002.png", 7: "health/0012.png"}
BOXES = [(1, 1, (84, 26, 106, 47)), (1, 2, (18, 16, 38, 35)), (2, 1, (77, 12, 107, 47)), (7, 2, (85, 22, 112, 51))]
SIZE = (128, 160)  # h, w
CHECKED = GivenFormat()


def truth(files=FILES):
    xyxy = np.array([box for _, _, box in BOXES], dtype=float)
    return GroundTruth(
        images=tuple(files),
        image_id=np.array([dict(zip(FILES, files, strict=True))[image] for image, _, _ in BOXES]),
        label=np.array([label for _, label, _ in BOXES]),
        xyxy=xyxy,
        area=(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1),
        is_crowd=np.zeros(len(BOXES), dtype=bool),
        names={1: "active", 2: "latent"},
        sizes=dict.fromkeys(files, SIZE),
        files=files,
    )


def rows(layout="xywh", scale=(160.0, 128.0), **columns):
    """The boxes of the ground truth as perfect detections; `columns` replaces values by a function of the old one."""
    made = []
    for n, (image, label, (x1, y1, x2, y2)) in enumerate(BOXES):
        box = {
            "xywh": [x1, y1, x2 - x1, y2 - y1],
            "xyxy": [x1, y1, x2, y2],
            "cxcywh": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
        }[layout]
        box = [v * scale[k % 2] / (160, 128)[k % 2] for k, v in enumerate(box)]
        row = {"image_id": image, "category_id": label, "bbox": box, "score": 0.9 - n / 10}
        made.append({**row, **{key: change(row.get(key, image)) for key, change in columns.items()}})
    return made


@pytest.fixture
def load(tmp_path):
    def loaded(content, given=CHECKED, ground_truth=None):
        path = tmp_path / "D.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_results(path, ground_truth or truth(), given)

    return loaded


def is_perfect(results):
    found = results.detections
    expected = truth()
    return (
        found.image_id.tolist() == expected.image_id.tolist()
        and found.label.tolist() == expected.label.tolist()
        and np.allclose(found.xyxy, expected.xyxy)
    )


JOINED = {
    "stem": {"image_id": lambda i: FILES[i].split("/")[1].split(".")[0]},
    "file name": {"image_id": lambda i: FILES[i].split("/")[1]},
    "with folders": {"image_id": lambda i: f"/images/val/{FILES[i]}"},
    "Windows path": {"image_id": lambda i: f"C:\\data\\{FILES[i]}".replace("/", "\\")},
    "folder and stem": {"image_id": lambda i: FILES[i].removesuffix(".png")},
    "other ending and case": {"image_id": lambda i: FILES[i].upper().replace("PNG", "JPG")},
    "id as text": {"image_id": str},
    "id as float": {"image_id": float},
    "id as text of a float": {"image_id": lambda i: f"{i}.0"},
    "category as float": {"category_id": float},
    "category as text": {"category_id": str},
    "category name": {"category_id": lambda k: {1: "active", 2: " Latent"}[k]},
    "file_name, other ids": {"file_name": lambda i: FILES[i], "image_id": lambda i: {1: 7, 2: 1, 7: 2}[i]},
    "score as text": {"score": str},
}


@pytest.mark.parametrize("kind", JOINED)
def test_images_and_categories_are_joined_by_what_the_rows_name(load, kind):
    results = load(rows(**JOINED[kind]))
    assert is_perfect(results)
    assert not results.warnings


def test_numbers_that_are_no_ids_are_numbers_of_stems(load):
    files = {5: "0001.png", 6: "0002.png", 8: "0007.png"}
    results = load(rows(), ground_truth=truth(files))
    assert results.detections.image_id.tolist() == [5, 5, 6, 8]
    assert "joined with their images by file name" in results.notes[0]


def test_ids_that_are_all_known_stay_ids_whatever_the_stems_are(load):
    files = {1: "2.png", 2: "1.png", 7: "x.png"}
    results = load(rows(), ground_truth=truth(files))
    assert results.detections.image_id.tolist() == [1, 1, 2, 7]
    assert not results.notes


def test_a_coco_object_with_scores_is_joined_by_its_own_lists(load):
    content = {
        "images": [{"id": 10 * i, "file_name": name} for i, name in FILES.items()],
        "categories": [{"id": 2, "name": "active"}, {"id": 1, "name": "latent"}],
        "annotations": rows(image_id=lambda i: 10 * i, category_id=lambda k: 3 - k),
    }
    assert is_perfect(load(content))
    content["annotations"] = [{k: v for k, v in row.items() if k != "score"} for row in content["annotations"]]
    with pytest.raises(DetectionsError, match="no score: this is ground truth"):
        load(content)


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({"image_id": lambda i: f"y{i}"}, FILES, r"row 0 \(from 0\): image_id 'y1' is none of the 3 images"),
        ({"image_id": lambda _: "x"}, {1: "a/x.png", 2: "b/x.png", 7: "c"}, "'x' may be 2 images of the ground truth"),
        ({"image_id": str}, {1: "2.png", 2: "1.png", 7: "7"}, "1, 2 may be ids or names of the ground truth"),
        ({"image_id": lambda i: i + 0.5}, FILES, "image_id 1.5 is none of the 3 images"),
        ({"image_id": lambda _: None}, FILES, r"row 0 \(from 0\): image_id None is none"),
        ({"file_name": lambda i: f"{i}/x001.png" if i == 1 else "no.png"}, FILES, "row 2 .*file_name 'no.png' is none"),
        ({"score": lambda _: float("nan")}, FILES, "score must be a finite number"),
        ({"score": lambda _: "high"}, FILES, "score must be a finite number, got 'high'"),
        ({"category_id": lambda _: 1.5}, FILES, "category_id must be a whole number"),
    ],
)
def test_what_cannot_be_joined_is_named(load, changes, files, message):
    with pytest.raises(DetectionsError, match=message):
        load(rows(**changes), ground_truth=truth(files))


def test_categories_that_only_the_file_has_get_ids_of_their_own(load):
    results = load(rows(category_id=lambda k: {1: "active", 2: "cat"}[k]))
    (number,) = results.unknown
    assert results.unknown == {number: "cat"}
    assert number not in (1, 2)
    assert results.detections.label.tolist() == [1, number, 1, number]


FORMATS = {
    **{layout: BoxFormat(layout) for layout in ("xyxy", "cxcywh")},
    **{f"unit {layout}": BoxFormat(layout, UNIT) for layout in ("xywh", "xyxy", "cxcywh")},
    "percent": BoxFormat("xywh", (100.0, 100.0)),
    "of the network": BoxFormat("xyxy", (1024.0, 1024.0)),
    "shorter side 800": BoxFormat("xywh", (1000.0, 800.0)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_boxes_of_another_format_are_refused_with_the_flags_that_read_them(load, kind):
    likely = FORMATS[kind]
    content = rows(likely.layout, likely.scale or (160.0, 128.0))
    with pytest.raises(DetectionsError, match=f"the boxes seem to be {likely.__str__().replace('[', '.')}") as error:
        load(content)
    assert f"give {likely.flags}, or --box_format xywh --box_scale pixels" in str(error.value)
    assert is_perfect(load(content, GivenFormat(likely.layout, likely.scale)))
    as_they_are = load(content, GivenFormat("xywh", None))  # what is given in full is not doubted
    np.testing.assert_array_equal(as_they_are.detections.xyxy[:, :2], [row["bbox"][:2] for row in content])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_boxes_in_pixels_are_never_refused_however_bad(tmp_path_factory, seed):
    """A network at the start of its training: boxes of any size about any point of the image."""
    rng = np.random.default_rng(seed)
    num = rng.integers(0, 60)
    size = rng.uniform(1, 160, (num, 2)) * rng.random()
    corner = rng.uniform(0, 1, (num, 2)) * [160, 128] - size / 2
    images = rng.choice(list(FILES), num).tolist()
    content = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": s}
        for i, box, s in zip(images, np.hstack([corner, size]).tolist(), rng.random(num).tolist(), strict=True)
    ]
    path = tmp_path_factory.mktemp("D") / "D.json"
    path.write_text(json.dumps(content))
    assert len(load_results(path, truth()).detections) == num


def test_few_or_slightly_overhanging_boxes_and_none_at_all_are_read(load):
    assert is_perfect(load(rows()))
    assert len(load([]).detections) == 0
    content = [{**row, "bbox": [-3, -3, 170, 135]} for row in rows()]
    assert not load(content).warnings


def test_one_box_in_another_format_is_a_warning(load):
    results = load(rows("xyxy")[:1])
    assert "the boxes seem to be x1, y1, x2, y2 in pixels" in results.warnings[0]


def test_boxes_outside_their_image_and_percent_scores_are_warnings(load):
    far = load([{**row, "bbox": [900, 900, 10, 10]} for row in rows()], GivenFormat("xywh", None))
    assert "4 of 4 boxes leave their image or are below a pixel" in far.warnings[0]
    percent = load(rows(score=lambda s: 100 * s))
    assert "scores reach 90, so they are no probabilities" in percent.warnings[0]


def test_categories_that_count_from_another_number_are_a_warning(load):
    results = load(rows(category_id=lambda k: k - 1))
    assert "4 boxes of the ground truth have a detection with an IoU of 0.7, but only 0 one" in results.warnings[0]
    assert "are the categories those of the ground truth, 1 active, 2 latent?" in results.warnings[0]


def test_a_folder_means_its_detections(tmp_path):
    with pytest.raises(DetectionsError, match=r"not found: .*detections\.json\.gz"):
        load_results(tmp_path, truth())
    (tmp_path / "detections.json").write_text(json.dumps(rows()))
    assert is_perfect(load_results(tmp_path, truth()))


@pytest.mark.parametrize("text", ["pixel", "0", "-1,2", "1,2,3", "nan", "", "inf,1"])
def test_a_scale_is_a_word_or_sides(text):
    assert (parse_scale("pixels"), parse_scale("unit"), parse_scale("800,600")) == (None, (1, 1), (800, 600))
    assert parse_scale("640") == (640, 640)
    with pytest.raises(ValueError, match=rf"could not convert|^{text}$"):
        parse_scale(text)


ANYTHING: st.SearchStrategy[object] = st.sampled_from(
    [None, True, "", "x001", "1", 1, 1.0, -1, 2**62, 2**70, 1e400, float("nan"), [], {}, "\ud800"]
)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_file_with_anything_in_it_is_read_or_named(tmp_path_factory, data):
    content = rows()
    for _ in range(data.draw(st.integers(1, 3))):
        row = content[data.draw(st.integers(0, 3))]
        row[data.draw(st.sampled_from(["image_id", "category_id", "bbox", "score", "file_name"]))] = data.draw(ANYTHING)
    own = {"images": data.draw(ANYTHING), "categories": [{"id": data.draw(ANYTHING), "name": data.draw(ANYTHING)}]}
    document = data.draw(st.sampled_from([content, {**own, "annotations": content}, own]))
    path = tmp_path_factory.mktemp("D") / "D.json"
    path.write_text(json.dumps(document))
    message = ""
    found = None
    try:
        found = load_results(path, truth()).detections
    except DetectionsError as error:
        message = str(error)
    assert str(path) in message if found is None else np.isfinite(found.xyxy).all()
