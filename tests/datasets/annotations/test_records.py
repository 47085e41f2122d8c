"""Values that tools write otherwise than COCO are read with one note per kind; what may mean anything is an error."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from datasets.annotations import tolerance
from datasets.annotations.records import parse_records
from datasets.annotations.split import COCO_LISTS, make_split
from util.base.errors import DataError

FILE = Path("a.json")
CLEAN = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 50} for i in (1, 2, 3)],
    "categories": [{"id": 4, "name": "scar"}, {"id": 9, "name": "mass"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 9, "bbox": [1.5, 2, 3, 4], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 4, "bbox": [5, 6, 7, 8], "area": 50.0, "iscrowd": 1},
    ],
}


def read(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return make_split("images", parse_records(text, FILE, COCO_LISTS), FILE)


def changed(**values):
    """The clean file with other values of a key in every annotation, or in all lists that have it."""
    content = deepcopy(CLEAN)
    for key, change in values.items():
        for row in (row for rows in content.values() for row in rows):
            if key in row:
                row[key] = change(row[key])
    return content


def assert_same(split, other):
    for name in ("image_ids", "sizes", "first_box", "xywh", "labels", "area", "is_crowd"):
        assert np.array_equal(getattr(split, name), getattr(other, name)), name
        assert getattr(split, name).dtype == getattr(other, name).dtype, name
    assert split.names == other.names


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (changed(id=float, image_id=float), "7 whole numbers have a decimal point: read as whole numbers; first "),
        (changed(category_id=float), "first annotations[0] 'category_id' '9.0' (float)"),
        (changed(id=str, image_id=str), "7 numbers are texts: read as numbers; first images[0] 'id' '1' (str)"),
        (changed(image_id=lambda v: f"{v}.0"), "2 numbers are texts: read as numbers"),
        (changed(bbox=lambda b: [*map(str, b)]), "2 numbers are texts: read as numbers; first annotations[0] 'bbox' "),
        (changed(area=str, iscrowd=str, width=str), "7 numbers are texts"),
    ],
)
def test_numbers_in_other_spellings_are_the_same_numbers(content, note):
    split = read(content)
    assert_same(split, read(CLEAN))
    [text] = split.notes
    assert note in text


def test_a_clean_file_has_no_note():
    assert read(CLEAN).notes == ()
    assert read(changed(area=lambda _: 3)).notes == ()


def test_null_is_no_crowd_and_no_area():
    split = read(changed(area=lambda _: None, iscrowd=lambda _: None))
    assert split.area.tolist() == [12.0, 56.0]
    assert not split.is_crowd.any()
    assert [note[:12] for note in split.notes] == ["2 'area' are", "2 'iscrowd' "]


def test_texts_as_image_ids_are_the_same_numbers_in_every_list():
    split = read(changed(id=lambda v: f"img_{v}" if v < 4 else v, image_id=lambda v: f"img_{v}"))
    assert split.image_of_box.tolist() == [0, 2]
    assert len(set(split.image_ids.tolist())) == 3
    other = deepcopy(CLEAN)
    other["images"] = [{**other["images"][0], "id": "img_3"}]
    other["annotations"] = []
    assert read(other).image_ids[0] == split.image_ids[2]
    assert all(0 <= i < 2**53 for i in split.image_ids.tolist())
    [note] = split.notes
    assert note == f"5 {tolerance.TEXT_ID}; first images[0] 'id' 'img_1' (str)"


def test_boxes_come_from_outlines_where_there_are_none():
    content = deepcopy(CLEAN)
    first, second = content["annotations"]
    del first["bbox"]
    first["segmentation"] = [[10, 20, 30, 20, 30, 44.5], [12, 8, 13, 8, 13, 9]]
    pixels = np.zeros((50, 60), dtype=np.uint8, order="F")
    pixels[5:9, 7:20] = 1
    encoded = mask.encode(pixels)
    second |= {"bbox": None, "segmentation": {"size": [50, 60], "counts": encoded["counts"].decode()}}
    split = read(content)
    assert split.xywh.tolist() == [[10, 8, 20, 36.5], [7, 5, 13, 4]]
    assert split.notes == (
        f"1 {tolerance.POLYGON}; first annotations[0] without 'bbox'",
        f"1 {tolerance.MASK}; first annotations[1] 'bbox' 'None' (NoneType)",
    )
    flat = pixels.flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    second["segmentation"]["counts"] = np.diff([0, *ends, len(flat)]).tolist()
    assert read(content).xywh[1].tolist() == [7, 5, 13, 4]


BAD: dict[str, list[Any]] = {
    "image_id": [True, 1.5, None, [1], "", -1, 2**63],
    "category_id": [True, 1.5, None, [1], "", -1, 2**63, "scar", "1.5", "1e400", math.nan, math.inf, 1e300],
    "bbox": [
        [1, 2, 3],
        [1, 2, 3, "x"],
        [1, 2, 3, "nan"],
        [1, 2, 3, None],
        [[1, 2, 3, 4]],
        [True, 2, 3, 4],
        {},
        None,
        "1",
    ],
    "area": ["inf", "1_0", True, []],
    "iscrowd": [2, "x", [], 0.5],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_what_may_mean_anything_is_named(key, value):
    content = deepcopy(CLEAN)
    content["annotations"][1][key] = value
    with pytest.raises(DataError, match=rf"a\.json: annotations\[1\]: '{key}' must be "):
        read(content)


@pytest.mark.parametrize(
    "outline",
    [
        *([], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["1"] * 6], [[float("nan")] * 6], "x", None, 3),
        {"size": [0, 0], "counts": "x"},
        {"size": [50, 60], "counts": [10, 20]},
        {"size": [50, 60], "counts": "\x00"},
        {"size": [50, 60], "counts": "o"},
        {"size": [50], "counts": []},
    ],
)
def test_an_outline_that_is_none_gives_no_box(outline):
    content = deepcopy(CLEAN)
    del content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = outline
    with pytest.raises(DataError, match=r"annotations\[0\] has no 'bbox' \(a list \[x, y, width, height\]\)"):
        read(content)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_value_is_read_or_named_and_never_changes_another(data):
    content = deepcopy(CLEAN)
    name = data.draw(st.sampled_from(["images", "annotations", "categories"]))
    row = data.draw(st.sampled_from(content[name]))
    key = data.draw(st.sampled_from(sorted(row)))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.integers().map(str)
    row[key] = data.draw(st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x)))
    try:
        split = read(content)
    except DataError as error:
        text = str(error)
    else:
        text = "a.json: "
        assert split.num_images == 3
        assert len(split.xywh) == 2
    assert text.startswith("a.json: ")


@given(st.binary(max_size=40).map(lambda b: bytes(48 + v % 64 for v in b).decode()))
def test_no_compressed_mask_stops_the_program(counts):
    converted = tolerance.box({"segmentation": {"size": [50, 60], "counts": counts}}, None)
    if converted is not None:
        left, top, width, height = converted[0]
        assert 0 <= left <= left + width <= 60
        assert 0 <= top <= top + height <= 50
