"""Plan a folder in the COCO layout from a collection of any format, before anything is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.annotations.records import parse_records
from datasets.annotations.split import COCO_LISTS, Split, make_split
from datasets.prepare.collection import Collection, Item
from datasets.prepare.tree import Tree

SIDES = ("train", "val", "test")


@dataclass
class CocoPlan:
    """A data folder in the COCO layout: SIDE/ with the images, annotations/instances_SIDE.json."""

    tree: Tree
    files: dict[str, str] = field(default_factory=dict)  # "train/x.png" -> file of the tree
    documents: dict[str, bytes] = field(default_factory=dict)  # "instances_train" -> json
    splits: dict[str, Split] = field(default_factory=dict)  # "train" -> the same, as columns


def plan_coco(collection: Collection) -> CocoPlan:
    """Give every image its name and, where the format has none, ids.

    An image keeps its own name, with its folders where names of a list are equal. COCO lists keep their order, ids and
    all keys. Images of other formats are sorted by name; their ids rise from 1 through train, val and test, as do those
    of their boxes. A box without an id in a list with ids gets one above all that are there.

    Raises:
        DataError: an image cannot be read.
    """
    plan = CocoPlan(collection.tree)
    boxes_of_all = [box for items in collection.lists.values() for item in items for box in item.boxes]
    counts = {"image": 0, "box": max((box["id"] for box in boxes_of_all if type(box.get("id")) is int), default=0)}
    for side in SIDES:
        if side not in collection.lists:
            continue
        named = _name(collection.lists[side])
        if not any(item.record for _, item in named):
            named.sort(key=lambda pair: pair[0])
        plan.files |= {f"{side}/{name}": item.file for name, item in named}
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for name, item in named:
            counts["image"] += 1
            images.append(_image(collection.tree, name, item, counts["image"]))
            for box in item.boxes:
                counts["box"] += "id" not in box
                boxes.append(box if "id" in box else _box(box, images[-1]["id"], counts["box"]))
        document = {"images": images, "annotations": boxes, "categories": collection.categories}
        content = json.dumps(document).encode()
        path = Path(f"instances_{side}.json")
        plan.documents[path.stem] = content
        plan.splits[side] = make_split(side, parse_records(content, path, COCO_LISTS), path)
    return plan


def _name(items: list[Item]) -> list[tuple[str, Item]]:
    """The items with names that differ also where upper and lower case are one."""
    names = [PurePosixPath(item.file).name for item in items]
    is_unique = len({name.casefold() for name in names}) == len({item.file for item in items})
    return [(name if is_unique else item.file, item) for name, item in zip(names, items, strict=True)]


def _image(tree: Tree, name: str, item: Item, number: int) -> dict[str, Any]:
    if item.record:
        return {**item.record, "file_name": name}
    height, width = tree.image_size(item.file)
    return {"id": number, "file_name": name, "width": width, "height": height}


def _box(box: dict[str, Any], image_id: int, number: int) -> dict[str, Any]:
    area = box["bbox"][2] * box["bbox"][3]
    return {"id": number, "image_id": image_id, "area": area, "iscrowd": 0} | box
