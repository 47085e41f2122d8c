"""The formats that can be converted, and which of them a tree is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from datasets.prepare.collection import Collection, files_ending, images_of
from datasets.prepare.formats import coco, csv_table, voc, yolo
from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few


class Format(NamedTuple):
    """A format of annotations."""

    title: str
    find_files: Callable[[Tree], list[str]]
    read: Callable[[Tree, list[str]], Collection]


FORMATS = {
    "coco": Format(coco.TITLE, coco.find_files, coco.read),
    "yolo": Format(yolo.TITLE, yolo.find_files, yolo.read),
    "voc": Format(voc.TITLE, voc.find_files, voc.read),
    "csv": Format(csv_table.TITLE, csv_table.find_files, csv_table.read),
}


def read_collection(tree: Tree, name: str | None = None) -> Collection:
    """Read the annotations of a tree in the format of this name, or in the only one that it has.

    Raises:
        DataError: it has no annotations of a known format or those of several, a link leads out of it, or a file is
            damaged.
    """
    if tree.outside:
        raise DataError(
            f"{tree.root}: {len(tree.outside)} links lead out of it: {first_few(tree.outside)}. They are not followed, "
            "because they could copy other files of this machine; if you made them, add --follow_links"
        )
    candidates = FORMATS if name is None else {name: FORMATS[name]}
    found = {key: files for key, kind in candidates.items() if (files := kind.find_files(tree))}
    if not found:
        raise DataError(_nothing_found(tree, candidates))
    if len(found) > 1:
        which = "; ".join(f"{FORMATS[key].title} ({first_few(files)})" for key, files in found.items())
        raise DataError(
            f"{tree.root}: has annotations in several formats: {which}; choose one: --format {' or '.join(found)}"
        )
    ((key, files),) = found.items()
    collection = FORMATS[key].read(tree, files)
    if not collection.lists:
        raise DataError(f"{tree.root}: its {collection.title} annotations list no image; add the images")
    return collection


def _nothing_found(tree: Tree, candidates: dict[str, Format]) -> str:
    expected = {
        "coco": "a COCO-format json",
        "yolo": "YOLO labels with data.yaml",
        "voc": "Pascal VOC xml",
        "csv": "a CSV with the columns file,x1,y1,x2,y2,label",
    }
    text = f"{tree.root}: has no annotations in a known format: {', '.join(expected[key] for key in candidates)}"
    for file in files_ending(tree, *csv_table.ENDINGS) if "csv" in candidates else []:
        return f"{text}; the columns of {file} are {', '.join(csv_table.first_row(tree, file))[:200]}"
    images = images_of(tree)
    others = first_few(sorted(set(tree.sizes) - set(images)))
    return f"{text}; beside {len(images)} images it holds {others or 'nothing'}"
