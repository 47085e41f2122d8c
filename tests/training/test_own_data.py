"""Any COCO-format folder trains: ids with gaps, names of its own."""

import json

import pytest

from tests.helpers.training import ONE_EPOCH, annotations, assert_refused, call, training

pytest_plugins = ["tests.helpers.training_fixtures"]
OWN = {"dataset_file": "coco", "train_list": "left", "val_list": "right"}
NAMES = {1: (5, "mass"), 2: (11, "nodule"), 3: (8, "scar")}


@pytest.fixture
def own(data):
    """The phantom as somebody else's data set: DIR/left, DIR/right, ids 5, 8 and 11."""
    for side, name in (("train", "left"), ("val", "right")):
        content = json.loads(annotations(data, side).read_text())
        for category in content["categories"]:
            category["id"], category["name"] = NAMES[category["id"]]
        for box in content["annotations"]:
            box["category_id"] = NAMES[box["category_id"]][0]
        (data / name).symlink_to(data / "imgs")
        (data / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    return data


def test_a_folder_of_other_categories_trains_and_keeps_their_names(own, room):
    outcome = call(*training(own, room / "run", **ONE_EPOCH, **OWN, num_classes=12, dn_labelbook_size=12))
    assert (outcome.code, outcome.err) == (0, "")
    assert "boxes: " in outcome.out
    for name in ("mass", "nodule"):
        assert f" {name}" in outcome.out
        assert any(f"/{name}/" in key for key in json.loads((room / "run/report.json").read_text()))


def test_too_few_classes_for_the_data_name_both_numbers_and_the_mend(own, room):
    outcome = call(*training(own, room / "run", **ONE_EPOCH, **OWN, num_classes=4))
    phrase = "category ids go up to 11 (nodule), but num_classes is 4; set --options num_classes=12"
    assert_refused(outcome, own / "annotations/instances_left.json", phrase)


@pytest.mark.slow
def test_more_classes_than_the_data_has_are_told(own, room):
    outcome = call(*training(own, room / "run", **ONE_EPOCH, **OWN, num_classes=20, dn_labelbook_size=20))
    assert outcome.code == 0, outcome.err
    assert "warning: instances_left: num_classes is 20, but category ids go up to 11 (nodule); set" in outcome.out
