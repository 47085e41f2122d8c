"""COCO lists in the layouts of other tools are found where they are, or the error says what to do."""

import json
import shutil

import numpy as np
import pytest

from datasets.annotations.layout import COCO
from datasets.annotations.split_names import is_same_split, side_of
from datasets.build import describe
from tests.helpers import data_layouts as layouts
from util.base.errors import DataError

COLUMNS = ("image_ids", "file_names", "sizes", "first_box", "xywh", "labels", "area", "is_crowd")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("train", "train"), ("Valid", "val"), ("validation", "val"), ("val2017", "val"), ("test_2014", "test")),
        *(("value", None), ("train1", None), ("my_train", None), ("2017", None), ("", None)),
    ],
)
def test_other_words_for_a_split_are_known(name, side):
    assert side_of(name) == side


def test_two_years_are_two_splits():
    assert is_same_split("train", "train2017")
    assert is_same_split("valid", "val2014")
    assert not is_same_split("train2014", "train2017")
    assert not is_same_split("train", "val")
    assert not is_same_split("mine", "mine")


@pytest.mark.parametrize("name", layouts.DIRECT)
def test_lists_are_the_same_in_every_layout(name, tmp_path):
    data = layouts.DIRECT[name](tmp_path / "data")
    usual = layouts.plain(tmp_path / "plain")
    for side in ("train", "val"):
        split = COCO.load(data, side)
        expected = COCO.load(usual, side)
        for column in COLUMNS:
            assert np.array_equal(getattr(split, column), getattr(expected, column))
        assert split.path(0).is_file()
        assert expected.layout == ""
        assert f" layout: {split.annotation_file.relative_to(data).as_posix()} with images in " in describe(split)
        assert describe(expected).startswith(f"instances_{side}: ")
    assert COCO.load(data, "train").name != COCO.load(data, "val").name


def refusal(data, side="train"):
    with pytest.raises(DataError) as error:
        COCO.load(data, side)
    return str(error.value)


def test_two_layouts_of_one_split_are_an_error_that_names_both(tmp_path):
    data = layouts.plain(tmp_path / "data")
    layouts.coco(data, images="{}", annotations="{}/_annotations.coco.json", words={"val": "valid"})
    usual = "annotations/instances_train.json with images in train/"
    other = "train/_annotations.coco.json with images in train/"
    assert COCO.load(data, "train").annotation_file.name == "instances_train.json", "equal files are one"
    content = json.loads((data / "train/_annotations.coco.json").read_text())
    content["images"].reverse()
    (data / "train/_annotations.coco.json").write_text(json.dumps(content))
    message = refusal(data)
    assert f"2 layouts fit the split 'train': {usual}; {other}; move all but one out of the data folder" in message
    assert COCO.load(data, "val").annotation_file.name == "instances_val.json", "an exact name counts alone"


def test_two_years_of_one_split_are_an_error(tmp_path):
    data = layouts.coco(tmp_path / "data", words={"train": "train2014", "val": "val2014"})
    layouts.coco(data, words={"train": "train2017", "val": "val2017"})
    message = refusal(data)
    assert "2 lists fit the split 'train'" in message
    assert message.endswith("set train_list=train2014 or train_list=train2017")
    assert COCO.load(data, "train2017").name == "instances_train2017"


def test_of_several_image_folders_that_counts_which_holds_the_listed_files(tmp_path):
    data = layouts.plain(tmp_path / "data")
    (data / "images/train").mkdir(parents=True)
    (data / "images/train/other.png").write_bytes(b"")
    assert COCO.load(data, "train").image_dir == data / "train"
    shutil.rmtree(data / "images")
    (data / "images").symlink_to(data / "train")
    assert COCO.load(data, "train").image_dir == data / "train", "a link is no second folder"
    (data / "images").unlink()
    shutil.copytree(data / "train", data / "images")
    assert "its images are in train/ and images/: which of them is meant?" in refusal(data)


def test_damaged_lists_are_named_also_where_folders_are_ambiguous(tmp_path):
    data = layouts.plain(tmp_path / "data")
    (data / "images").mkdir()
    for content in ("{", "[]", '{"images": 1}', '{"images": [{"file_name": 3}]}', '{"images": [1]}'):
        (data / "annotations/instances_train.json").write_text(content)
        assert str(data / "annotations/instances_train.json") in refusal(data)


def test_the_lists_of_other_tasks_are_none(tmp_path):
    data = layouts.plain(tmp_path / "data")
    for task in ("captions", "person_keypoints", "stuff", "panoptic", "image_info"):
        (data / f"annotations/{task}_train.json").write_text("{}")
    (data / "annotations.json").write_text("{}")
    assert COCO.lists(data) == ["train", "val"]


@pytest.mark.parametrize("name", layouts.CONVERTED)
def test_other_formats_are_answered_with_the_command_that_converts_them(name, tmp_path):
    data = layouts.CONVERTED[name](tmp_path / "data")
    title = {"y": "Ultralytics YOLO", "v": "Pascal VOC", "c": "a CSV list"}[name[0]]
    message = refusal(data)
    assert message.endswith(
        f"looks like {title}: convert it with python scripts/prepare_data.py {data} --output_dir OUT"
    )


def test_one_list_is_answered_with_the_command_that_divides_it(tmp_path):
    command = "python scripts/prepare_data.py {} --output_dir OUT"
    data = layouts.UNDIVIDED["cvat"](tmp_path / "cvat")
    assert refusal(data).endswith(
        f"available: default; set train_list or val_list accordingly, or divide the list: {command.format(data)}"
    )
    data = layouts.UNDIVIDED["fiftyone"](tmp_path / "fiftyone")
    assert refusal(data).endswith(f"this looks like one COCO list: convert it with {command.format(data)}")
