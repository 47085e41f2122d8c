"""The same images and boxes train and evaluate to the same values in whatever layout they come."""

import json

import pytest

from scripts import prepare_data
from tests.helpers import data_layouts as layouts
from tests.helpers.training import ONE_EPOCH, call, losses, metrics, training

pytestmark = pytest.mark.slow
OWN = {"dataset_file": "coco", "train_list": "train", "val_list": "val", "num_classes": 3, "dn_labelbook_size": 3}


def values_of(data, folder, **changes):
    """(losses of each step, metrics) of a training of an epoch."""
    outcome = call(*training(data, folder, **{**ONE_EPOCH, **OWN, **changes}))
    assert (outcome.code, outcome.err) == (0, "")
    (folder / "checkpoint.pth").unlink()
    assert len(losses(folder)) > 1
    return losses(folder), metrics(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The values of the data in the COCO layout."""
    room = tmp_path_factory.mktemp("reference")
    return values_of(layouts.plain(room / "data"), room / "run")


@pytest.mark.parametrize("name", layouts.DIRECT)
def test_lists_of_other_tools_train_where_they_are(name, reference, tmp_path):
    assert values_of(layouts.DIRECT[name](tmp_path / "data"), tmp_path / "run") == reference


def test_the_layout_of_tbx11k_trains_to_the_same_values(reference, tmp_path):
    data = layouts.coco(tmp_path / "data", images="imgs", annotations="annotations/json/TBX11K_{}.json")
    lists = {"dataset_file": "tbx11k", "train_list": "TBX11K_train", "val_list": "TBX11K_val"}
    assert values_of(data, tmp_path / "run", **lists) == reference


@pytest.mark.parametrize("name", layouts.CONVERTED)
def test_converted_annotations_train_to_the_same_values(name, reference, tmp_path):
    source = layouts.CONVERTED[name](tmp_path / "source")
    assert prepare_data.main([str(source), "--output_dir", str(tmp_path / "data")]) == 0
    assert values_of(tmp_path / "data", tmp_path / "run") == reference


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """The values of the divided data in the COCO layout, by whether ids count through train and val."""
    room = tmp_path_factory.mktemp("divided")
    source = layouts.UNDIVIDED["fiftyone"](room / "source")
    assert prepare_data.main([str(source), "--output_dir", str(room / "lists")]) == 0
    lists = {}
    for side in ("train", "val"):
        content = json.loads((room / f"lists/annotations/instances_{side}.json").read_text())
        lists[side] = [image["file_name"] for image in content["images"]]
    counted = {name: i for i, name in enumerate(lists["train"] + lists["val"], start=1)}
    return {
        "counted": values_of(layouts.plain(room / "counted", lists, counted), room / "run_1"),
        "kept": values_of(layouts.plain(room / "kept", lists), room / "run_2"),
    }


@pytest.mark.parametrize("name", layouts.UNDIVIDED)
def test_one_list_is_divided_in_the_same_way_in_every_format(name, divided, tmp_path):
    source = layouts.UNDIVIDED[name](tmp_path / "source")
    assert prepare_data.main([str(source), "--output_dir", str(tmp_path / "data")]) == 0
    ids = "kept" if any(source.rglob("*.json")) else "counted"
    assert values_of(tmp_path / "data", tmp_path / "run") == divided[ids]
