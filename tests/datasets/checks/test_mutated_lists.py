"""Whatever is done to annotation files: one error that names the file, a warning, or the boxes are as before."""

import copy
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.annotations.split import load_split
from datasets.dataset import load_target
from scripts.score import load_truth
from tests.helpers.coco_folder import SIDES, SIZE, annotation_file, check, make_lists, write_images, write_lists
from util.base.errors import DataError
from util.metrics.files import save_ground_truth
from util.metrics.report.file import fingerprint

BASE = Path(__file__).parents[3] / "config/_base_/data.py"
CASES = 500 if os.environ.get("ALL_VARIATIONS") else 60
SCALE = np.array([*SIZE, *SIZE], dtype=float)
JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([1] * 4),
)


def each_box(change):
    """A mutation of all boxes of a list, [x, y, w, h] in, anything out."""

    def mutate(content, draw):
        for box in content["annotations"]:
            box["bbox"] = np.asarray(change(np.array(box["bbox"], dtype=float), draw)).tolist()
            box.pop("area")

    return mutate


def corners(box):
    return np.concatenate([box[:2], box[:2] + box[2:]])


def centred(box):
    return np.concatenate([box[:2] + box[2:] / 2, box[2:]])


def each_record(which, **values):
    return lambda content, _draw: [record.update(values) for record in content[which]]


def each_name(change):
    return lambda content, _draw: [image.update(file_name=change(image["file_name"])) for image in content["images"]]


def remove_boxes(content, draw):
    category = draw(st.sampled_from([None, 1, 2]))
    content["annotations"] = [box for box in content["annotations"] if category not in (None, box["category_id"])]


def scale_boxes(content, draw):
    factor = draw(st.one_of(st.floats(0.001, 0.5), st.floats(1.2, 1000)))
    each_box(lambda box, _: box * factor)(content, draw)


def swap_sizes(content, _draw):
    for image in content["images"]:
        image.update(width=image["height"], height=image["width"])


def places(value, found):
    """All (container, key) in a document."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, dict | list):
            places(inner, found)
    return found


def replace_value(content, draw):
    container, key = draw(st.sampled_from(places(content, [])))
    container[key] = copy.deepcopy(draw(JSON_VALUES))


def delete_value(content, draw):
    container, key = draw(st.sampled_from(places(content, [])))
    del container[key]


def repeat_value(content, draw):
    lists = [content[name] for name in ("images", "annotations", "categories")]
    records = draw(st.sampled_from(lists))
    records.append(copy.deepcopy(draw(st.sampled_from(records))))


MUTATIONS = [
    each_box(lambda box, _: box / SCALE),
    each_box(lambda box, _: centred(box) / SCALE),
    each_box(lambda box, _: 100 * box / SCALE),
    each_box(lambda box, _: corners(box)),
    each_box(lambda box, _: corners(box) / SCALE),
    each_box(lambda box, _: centred(box)),
    each_box(lambda box, _: box * [1, 1, -1, -1]),
    each_box(lambda box, _: box * [1, 1, 0, 1]),
    each_box(lambda box, draw: [*box[:3], draw(st.floats())]),
    each_box(lambda box, _: [str(value) for value in box]),
    scale_boxes,
    remove_boxes,
    swap_sizes,
    each_record("annotations", iscrowd=1),
    each_record("annotations", attributes={"rotation": 30.0}),
    each_record("annotations", category_id=3),
    each_record("annotations", image_id=1),
    each_record("categories", name="one for all"),
    each_name(lambda name: f"images/{name}"),
    each_name(lambda name: name.upper()),
    each_name(lambda name: name[:-4]),
    each_name(lambda name: f"\ud800{name}"),
    each_name(lambda _name: "x001.png"),
    replace_value,
    delete_value,
    repeat_value,
]


@st.composite
def mutated(draw):
    lists = make_lists()
    for side in draw(st.sampled_from([("train",), ("val",), SIDES])):
        for _ in range(draw(st.integers(1, 2))):
            try:
                draw(st.sampled_from(MUTATIONS))(lists[side], draw)
            except (KeyError, TypeError, AttributeError, IndexError, ValueError):
                break  # the first mutation has left nothing for the second
        if draw(st.integers(0, 9)) == 0:
            text = json.dumps(lists[side])
            start = draw(st.integers(0, len(text)))
            lists[side] = text[:start] + draw(st.sampled_from(["", '"', "}", "1e999", "\x00"])) + text[start + 1 :]
    return lists


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    write_images(folder)
    return folder


def found_share(boxes, original):
    """The share of the boxes, {(file, category): [[x1, y1, x2, y2]]}, that the original ones find at IoU 0.5."""
    hits = 0
    for key, places in boxes.items():
        for place in places:
            for other in original.get(key, []):
                overlap = np.prod((np.minimum(place[2:], other[2:]) - np.maximum(place[:2], other[:2])).clip(min=0))
                union = np.prod(place[2:] - place[:2]) + np.prod(other[2:] - other[:2]) - overlap
                hits += overlap >= 0.5 * union
    return hits / sum(map(len, boxes.values()))


def training_boxes(split):
    """What training gets of a split, by file and category."""
    boxes = {}
    for i, name in enumerate(split.file_names.tolist()):
        target = load_target(split, i)
        for label, box in zip(target["labels"].tolist(), target["boxes"].numpy().astype(float), strict=True):
            boxes.setdefault((name, label), []).append(box)
    return boxes


@pytest.fixture(scope="module")
def original(root):
    write_lists(root, make_lists())
    checked = check(root, BASE)
    assert checked.warnings == []
    return {side: training_boxes(checked.splits[side]) for side in SIDES}


def assert_names_a_list(root, message):
    assert message.startswith(tuple(str(annotation_file(root, side)) for side in SIDES))


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists=mutated())
def test_a_mutated_list_is_refused_or_named_or_has_the_boxes_of_the_original(root, original, lists):
    write_lists(root, lists)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of numpy
            checked = check(root, BASE)
    except DataError as error:
        return assert_names_a_list(root, str(error))
    for side, split in checked.splits.items():
        truth = split.ground_truth()
        assert not np.isclose(truth.xyxy[:, :2], truth.xyxy[:, 2:], atol=0).any()
        boxes = training_boxes(split)
        assert sum(map(len, boxes.values())) == split.num_boxes
        if not checked.warnings:
            assert found_share(boxes, original[side]) > 0
        save_ground_truth(root / "truth.json.gz", truth)
        assert fingerprint(load_truth(root / "truth.json.gz", "all")[0]) == fingerprint(truth)
        assert load_split(root, root / "truth.json.gz").num_boxes == split.num_boxes
