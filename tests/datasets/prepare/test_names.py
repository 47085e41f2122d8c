"""The list that `repair_file_names` makes is the same but for its file names, and passes the check."""

import copy
import json
from pathlib import Path

import pytest

from datasets.annotations.split import load_split
from datasets.checks.file_names import find_in_file_names
from datasets.prepare.names import repair_file_names, write_repaired_folder
from tests.helpers.coco_folder import annotation_file, check, make_lists, write_images, write_lists
from util.base.errors import DataError

BASE = Path(__file__).parents[3] / "config/_base_/data.py"


def renamed(coco, names):
    for image, name in zip(coco["images"], names, strict=True):
        image["file_name"] = name
    return coco


@pytest.mark.parametrize("change", [lambda name: f"images/{name}", lambda name: name[:-4], lambda name: name.upper()])
def test_a_repaired_list_names_every_file_and_keeps_all_else(coco, write, change):
    folder, file = write(coco)
    original = copy.deepcopy(coco)
    names = [image["file_name"] for image in coco["images"]]
    file.write_text(json.dumps({**renamed(coco, map(change, names)), "info": {"year": 2020}}))
    (finding,) = find_in_file_names(load_split(folder, file))
    assert finding.kind == "missing"
    assert "a.png is there: " in finding.text
    assert (
        f" (3 names); python scripts/prepare_data.py {file.parent} --output_dir OUT --fix_names writes" in finding.text
    )
    repaired = repair_file_names(file, folder)
    assert repaired.document == {**original, "info": {"year": 2020}}
    assert (sum(repaired.counts.values()), repaired.unmatched) == (3, [])


def test_names_without_a_file_stay_and_are_returned(coco, write):
    folder, file = write(coco)
    file.write_text(json.dumps(renamed(coco, ["images/a.png", "../nowhere.png", "lost.png"])))
    repaired = repair_file_names(file, folder)
    assert [image["file_name"] for image in repaired.document["images"]] == ["a.png", "../nowhere.png", "lost.png"]
    assert repaired.counts == {"drop the prefix 'images/'": 1}
    assert repaired.unmatched == ["../nowhere.png", "lost.png"]
    outside, missing = (finding.text for finding in find_in_file_names(load_split(folder, file)))
    assert outside.startswith("1 of 3 file names leave the image folder: ../nowhere.png; give them relative to")
    assert "a.png is there: drop the prefix 'images/' (1 name); " in missing
    assert missing.endswith("1 are there under no similar name: complete the download, or remove their records")


def test_a_repaired_folder_trains_as_it_is_and_the_original_stays(tmp_path):
    root = tmp_path / "data"
    write_images(root)
    lists = make_lists()
    for content in lists.values():
        for image in content["images"]:
            image["file_name"] = f"images/{image['file_name']}"
    write_lists(root, lists)
    original = annotation_file(root, "train").read_bytes()
    repaired = write_repaired_folder(root, tmp_path / "out")
    assert {name: sum(found.counts.values()) for name, found in repaired.items()} == {"train": 6, "val": 4}
    assert check(tmp_path / "out", BASE).warnings == []
    assert annotation_file(root, "train").read_bytes() == original
    with pytest.raises(DataError, match="out: is not empty"):
        write_repaired_folder(root, tmp_path / "out")
    with pytest.raises(DataError, match="data: is not empty"):
        write_repaired_folder(root, root)
    with pytest.raises(DataError, match="needs annotations"):
        write_repaired_folder(root / "train", tmp_path / "other")


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"images": [{"file_name": 3}]}')
    with pytest.raises(DataError, match=r"x\.json: images\[0\]: 'file_name' must be a text"):
        repair_file_names(tmp_path / "x.json", tmp_path)
