"""COCO-format lists at any place: one for all images, or one for each split."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from datasets.annotations.records import parse_records
from datasets.annotations.split import COCO_LISTS, make_split
from datasets.annotations.split_names import CLEAN_SUFFIX, side_of
from datasets.prepare.collection import WHOLE, Collection, Item, Locator, files_ending, settle_lists, side_of_file
from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few

TITLE = "COCO"


def find_files(tree: Tree) -> list[str]:
    """The COCO-format lists of boxes in a tree."""
    return [file for file in files_ending(tree, ".json") if _is_list(tree.read(file))]


def _is_list(content: bytes) -> bool:
    """Whether a file names what such a list holds; one that lacks a part is to be an error, not overlooked."""
    return b'"images"' in content and (b'"annotations"' in content or b'"categories"' in content)


def read(tree: Tree, files: list[str]) -> Collection:
    """The lists that the files describe.

    Raises:
        DataError: a file is damaged, two are of one split, categories differ, or an image is not there.
    """
    notes: list[str] = []
    of_side: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if (side := side_of_list(file)) is not None:
            of_side[side].append(file)
    if WHOLE in of_side and {"train", "val"} <= of_side.keys():
        notes.append(f"lists of no split were left out: {first_few(of_side.pop(WHOLE))}")
    for side, several in of_side.items():
        if len(several) > 1:
            which = f"of '{side}'" if side else "of all images"
            raise DataError(
                f"{tree.root}: {len(several)} lists {which}: {first_few(several)}; give one of them alone, or call "
                "them train.json and val.json"
            )
    locator = Locator(tree)
    lists = {side: _read_list(tree, file, side, locator) for side, (file,) in of_side.items()}
    categories = _one_list_of_categories(tree, {of_side[side][0]: content for side, (_, content) in lists.items()})
    items = settle_lists({side: items for side, (items, _) in lists.items()}, notes)
    listed = {item.file for members in items.values() for item in members}
    if unlisted := sorted(set(locator.images) - listed):
        notes.append(f"{len(unlisted)} images are in no list and were left out: {first_few(unlisted)}")
    return Collection(tree, TITLE, categories, items, notes)


def side_of_list(file: str) -> str | None:
    """The split of a list by its name or folder; WHOLE where neither says it, None for a list made from another."""
    stem = PurePosixPath(file).stem.removeprefix("instances_")
    if stem.endswith(CLEAN_SUFFIX):
        return None
    return side_of(stem) or side_of_file(file)


def _read_list(tree: Tree, file: str, side: str, locator: Locator) -> tuple[list[Item], list[dict[str, Any]]]:
    """Images with their boxes, and the categories."""
    content = tree.read(file)
    path = tree.root / file
    records = parse_records(content, path, COCO_LISTS)
    split = make_split(path.parent, records, path)
    # Keys and boxes as columns: an id may be 1 in one list and "1" in the other, a box only a polygon.
    boxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    rows = records["annotations"]
    columns = zip(rows.rows, rows.image_ids("image_id").tolist(), rows.boxes("bbox").tolist(), strict=True)
    for row, image_id, box in columns:
        boxes[image_id].append(row if row.get("bbox") == box else {**row, "bbox": box})
    items = []
    members = zip(records["images"].rows, split.image_ids.tolist(), split.file_names.tolist(), strict=True)
    for record, image_id, name in members:
        if image := locator.find(name, file, side=side):
            items.append(Item(image, record, boxes[image_id]))
    locator.refuse_missing(file)
    return items, records["categories"].rows


def _one_list_of_categories(tree: Tree, found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The categories of all lists by id."""
    whole: dict[Any, dict[str, Any]] = {}
    for file, categories in found.items():
        for category in categories:
            other = whole.setdefault(category["id"], category)
            if other["name"] != category["name"]:
                raise DataError(
                    f"{tree.root / file}: category {category['id']} is {category['name']!r} here and {other['name']!r} "
                    "in another list; use the same categories in all lists"
                )
    return list(whole.values())
