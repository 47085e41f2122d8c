"""What is said before a training of lists without usable boxes, of boxes in another form, and of categories."""

import json
from pathlib import Path

import pytest

from datasets.build import check_split
from datasets.checks.folder import check_folder
from datasets.dataset import load_target
from tests.helpers.coco_folder import annotation_file, check, data_config, make_lists, write_images, write_lists
from util.base.errors import DataError

BASE = Path(__file__).parents[3] / "config/_base_/data.py"
CORNERS = lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]  # noqa: E731
CENTRED = lambda box: [box[0] + box[2] / 2, box[1] + box[3] / 2, *box[2:]]  # noqa: E731


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture
def root(images, tmp_path):
    for side in ("train", "val"):
        (tmp_path / side).symlink_to(images / side)
    return tmp_path


@pytest.fixture
def lists():
    return make_lists()


def warnings(root, lists, **how):
    write_lists(root, lists)
    return check(root, BASE, **how).warnings


def error(root, lists, **how):
    """The lines of the error, without the first, which names the file."""
    with pytest.raises(DataError) as raised:
        warnings(root, lists, **how)
    first, *lines = str(raised.value).split("\n  ")
    assert first.startswith(str(root / "annotations"))
    return lines or [first]


def boxes(lists, side, **values):
    for box in lists[side]["annotations"]:
        box.update(values)


def transform(lists, change, side="train"):
    for box in lists[side]["annotations"]:
        box["bbox"] = change(box["bbox"])
        del box["area"]


def test_lists_without_a_defect_have_no_warning(root, lists):
    assert warnings(root, lists) == []
    assert check_folder(root).findings == []


def test_a_training_list_of_crowd_regions_alone_is_refused(root, lists):
    boxes(lists, "train", iscrowd=1)
    (line,) = error(root, lists)
    assert line.startswith("all 12 boxes are iscrowd = 1, regions of many objects: a detector learns from none of them")
    assert "CVAT exports masks so" in line


def test_a_list_of_more_crowd_regions_than_boxes_is_named(root, lists):
    for box in lists["train"]["annotations"][4:]:
        box["iscrowd"] = 1
    (line,) = warnings(root, lists)
    assert line.startswith("instances_train: 8 of 12 boxes are iscrowd = 1")


def test_a_training_list_without_a_box_is_refused(root, lists):
    lists["train"]["annotations"] = []
    assert error(root, lists) == [
        "none of 6 images has a box: there is nothing to learn; check that this is the right list"
    ]


@pytest.mark.parametrize("crowd", [False, True])
def test_a_validation_list_without_a_box_has_no_ap(root, lists, crowd):
    boxes(lists, "val", iscrowd=1)
    lists["val"]["annotations"] = lists["val"]["annotations"] if crowd else []
    (line,) = warnings(root, lists)
    assert line.startswith("instances_val: ")
    assert "AP is undefined and no best.pth is chosen" in line
    own = check_split(data_config(BASE), root, "val", num_classes=3)[1]
    assert own == [line.removeprefix("instances_val: ")]


@pytest.mark.parametrize(("side", "effect"), [("train", "about 0 and counts in the mean"), ("val", "left out of the")])
def test_a_category_with_boxes_in_one_list_alone_is_named_with_its_boxes(root, lists, side, effect):
    kept = [box for box in lists[side]["annotations"] if box["category_id"] == 2]
    lists[side]["annotations"] = kept
    (line,) = warnings(root, lists)
    with_boxes = "validation and none in training: 1 (active, 4" if side == "train" else "training and none in"
    assert line.startswith(f"1 categories have boxes in {with_boxes}")
    assert effect in line
    kinds = [finding.kind for finding in check_folder(root).findings]
    assert kinds == ["unseen_category" if side == "train" else "unevaluated_category"]


def test_a_category_without_a_box_in_any_list_is_a_note_of_the_folder(root, lists):
    for content in lists.values():
        content["categories"] = [*content["categories"], {"id": 3, "name": "nodule"}]
    assert warnings(root, lists, num_classes=4) == []
    (finding,) = check_folder(root).findings
    assert (finding.kind, finding.severity) == ("unused_category", "note")


@pytest.mark.parametrize("side", ["train", "val"])
def test_the_number_of_classes_is_that_of_the_larger_list(root, lists, side):
    lists[side]["categories"] = [*lists[side]["categories"], {"id": 5, "name": "nodule"}]
    assert error(root, lists, num_classes=3) == [
        "category ids go up to 5 (nodule), but num_classes is 3; set --options num_classes=6"
    ]
    assert warnings(root, lists, num_classes=6) == []
    (line,) = warnings(root, lists, num_classes=7)
    assert line.endswith("num_classes is 7, but category ids go up to 5 (nodule); set --options num_classes=6")


@pytest.mark.parametrize("form", [list, CENTRED, CORNERS])
def test_shares_of_the_image_are_refused(root, lists, form):
    transform(lists, lambda box: [value / side for value, side in zip(form(box), (96, 80, 96, 80), strict=True)])
    (line,) = error(root, lists)
    assert line.startswith("all 12 boxes lie within [0, 1]: they are shares of the image, not pixels; multiply them by")


@pytest.mark.parametrize(
    ("form", "words"),
    [(CORNERS, "looks like [x1, y1, x2, y2], in which all 12"), (CENTRED, "looks like [centre x, centre y, width")],
)
def test_boxes_of_another_form_are_recognised(root, lists, form, words):
    transform(lists, form)
    (line,) = error(root, lists)
    assert line.startswith("6 of 12 boxes reach more than 1 px beyond their image: [")
    assert words in line


def test_a_single_box_beyond_its_image_suggests_no_other_form(root, lists):
    lists["train"]["annotations"][0]["bbox"] = [70, 5, 60, 9]
    lists["train"]["annotations"][2]["bbox"] = [1, 1, 40, 30]
    (line,) = error(root, lists)
    assert "looks like" not in line
    assert line.endswith("correct the boxes or the size")


def test_boxes_of_a_copy_of_half_the_size_are_named(root, lists):
    transform(lists, lambda box: [value / 2 for value in box])
    (line,) = warnings(root, lists)
    assert "all 12 boxes lie in the upper left quarter of their images, the last ends at 49%" in line


def test_boxes_under_a_pixel_are_counted(root, lists):
    lists["val"]["annotations"][1].update(bbox=[5, 5, 0.5, 9], area=4.5)
    (line,) = warnings(root, lists)
    assert line.startswith("instances_val: 1 of 8 boxes are smaller than a pixel: [5, 5, 0.5, 9] on x001.png (id 1, 96")


def test_rotated_boxes_of_cvat_are_counted_and_half_a_turn_is_none(root, lists):
    for box, rotation in zip(lists["train"]["annotations"], (30.5, 0.0, 180, 90, None, "x"), strict=False):
        box["attributes"] = {"occluded": False, "rotation": rotation}
    (line,) = warnings(root, lists)
    assert line.startswith("instances_train: 2 of 12 boxes are rotated (attributes.rotation): [6, 5, 40, 30] on x001")


@pytest.mark.parametrize("box", [[6, 5, 0, 30], [6, 5, 40, 0], [96, 5, 1, 9], [-1, 5, 1, 9], [600, 600, 0, 9]])
def test_a_box_without_area_in_its_image_is_left_out_everywhere(root, lists, box):
    for content in lists.values():
        content["annotations"][0].update(bbox=box, area=9)
    write_lists(root, lists)
    checked = check(root, BASE)
    assert [line.split(";")[0] for line in checked.warnings] == [
        "instances_train: 1 of 12 boxes have no width or no height in their image: on x001.png (1)",
        "instances_val: 1 of 8 boxes have no width or no height in their image: on x001.png (1)",
    ]
    for split, count in zip(checked.splits.values(), (11, 7), strict=True):
        assert (split.num_boxes, len(split.ground_truth())) == (count, count)
        assert len(load_target(split, 0)["boxes"]) == 1


@pytest.mark.parametrize("box", [[6, 5, -1, 30], [6, 5, 0, -3], [6, 5, float("-inf"), 3]])
def test_negative_sides_are_refused(root, lists, box):
    lists["val"]["annotations"][0]["bbox"] = box
    (line,) = error(root, lists)
    assert "have a negative width or height: [6, 5, " in line or "not finite" in line


@pytest.mark.parametrize("key", ["bbox", "annotations"])
def test_a_key_with_two_values_is_refused_and_one_that_is_repeated_is_not(root, lists, key):
    text = json.dumps(lists["train"])
    value = '"bbox": [6, 5, 40, 30]' if key == "bbox" else '"annotations": ['
    other = '"bbox": [1, 2, 3, 4]' if key == "bbox" else '"annotations": [], "annotations": ['
    lists["train"] = text.replace(value, f"{value}, {other}" if key == "bbox" else other, 1)
    (line,) = error(root, lists)
    assert line.startswith(f"{annotation_file(root, 'train')}: {key} occurs twice in one object, with different values")
    lists["train"] = text.replace(value, f"{value}, {value}" if key == "bbox" else value, 1)
    assert warnings(root, lists) == []


def test_the_check_of_a_folder_names_the_list(root, lists):
    boxes(lists, "train", iscrowd=1)
    lists["val"]["annotations"] = []
    write_lists(root, lists)
    found = [finding.text.split(":")[0] for finding in check_folder(root).findings]
    assert found == ["instances_train", "instances_val"]
