"""Recognise TBX11K in whatever shape it was downloaded: each file is known by its own name, wherever it lies."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few

PARTS = ("train", "val", "trainval")
LISTS = (*(f"{kind}_{part}" for kind in ("TBX11K", "all") for part in PARTS), "TBX11K_test", "all_test")
DOCUMENTS = (
    *(f"{kind}_{part}{only}" for kind in ("TBX11K", "all") for part in PARTS for only in ("", "_only_tb")),
    "all_test",
)
# What re-uploads call them.
OTHER_LIST_NAMES = {"train": "TBX11K_train", "val": "TBX11K_val", "valid": "TBX11K_val", "trainval": "TBX11K_trainval"}
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FOLDER_OF = (
    (re.compile(r"tb\d+"), "tb"),
    (re.compile(r"h\d+"), "health"),
    (re.compile(r"s\d+"), "sick"),
    (re.compile(r"unknown_\d+"), "test"),
    (re.compile(r"(CHNCXR|MCUCXR)_\d+_[01]"), "extra/mc+shenzhen/{}"),
    (re.compile(r"[np]x?\d+"), "extra/da+db/{}"),
)
CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml", "dataset.yaml")


@dataclass
class Source:
    """Where everything is in a tree."""

    tree: Tree
    images: dict[str, str] = field(default_factory=dict)  # "tb0005" -> file
    documents: dict[str, str] = field(default_factory=dict)  # "TBX11K_train" -> json file
    lists: dict[str, str] = field(default_factory=dict)  # "TBX11K_train" -> text file
    xml: dict[str, str] = field(default_factory=dict)  # "tb0005" -> file
    labels: dict[str, str] = field(default_factory=dict)  # "tb0005" -> YOLO text file
    classes: str | None = None  # the file that names the YOLO classes
    notes: list[str] = field(default_factory=list)


def recognise(tree: Tree) -> Source:
    """Find images, annotations and lists.

    Raises:
        DataError: nothing of TBX11K is there.
    """
    source, others = Source(tree), 0
    twice: list[str] = []
    for file in sorted(tree.sizes, key=_preference):
        path = PurePosixPath(file)
        kind, key = _what(path)
        if kind is None:
            others += 1
        elif kind == "classes":
            source.classes = source.classes or file
        elif key in (found := vars(source)[kind]):
            twice.append(file)
        else:
            found[key] = file
    source.labels = {stem: file for stem, file in source.labels.items() if stem in source.images}
    if tree.outside:
        raise DataError(
            f"{tree.root}: {len(tree.outside)} links lead out of it: {first_few(tree.outside)}. They are not followed, "
            "as whoever made them may want other files of this machine copied; if that was you, add --follow_links"
        )
    if not source.images and not source.documents and not source.xml:
        raise DataError(
            f"{tree.root}: holds nothing of TBX11K: no image called like tb0005.png, h0001.png or s0001.png and no "
            "annotation file called like TBX11K_train.json or tb0005.xml; it holds "
            f"{first_few(sorted(tree.sizes)) or 'nothing'}"
        )
    if twice:
        source.notes.append(f"{len(twice)} files are there more than once and were left out: {first_few(twice)}")
    if others:
        source.notes.append(f"{others} files are none of TBX11K and were left out")
    return source


def folder_of(stem: str) -> str | None:
    """The folder of an image below imgs/, by its name; '{}' stands for train or val."""
    return next((folder for pattern, folder in FOLDER_OF if pattern.fullmatch(stem)), None)


def _what(path: PurePosixPath) -> tuple[str | None, str]:
    """What a file is, as a field of `Source`, and its key there."""
    ending, stem = path.suffix.lower(), path.stem
    if path.name in CLASS_FILES:
        return "classes", ""
    if ending in IMAGES and folder_of(stem):
        return "images", stem
    if ending == ".json" and stem in DOCUMENTS:
        return "documents", stem
    if ending == ".xml" and folder_of(stem):
        return "xml", stem
    if ending == ".txt" and (stem in LISTS or stem in OTHER_LIST_NAMES):
        return "lists", OTHER_LIST_NAMES.get(stem, stem)
    if ending == ".txt" and folder_of(stem):
        return "labels", stem
    return None, ""


def _preference(file: str) -> tuple[bool, bool, bool, int, str]:
    """Official places first, then png, then the shallowest."""
    path = PurePosixPath(file)
    is_alias = path.stem in OTHER_LIST_NAMES
    return is_alias, not {"imgs", "annotations", "lists"} & {*path.parts}, path.suffix != ".png", len(path.parts), file
