"""Recognise the files of TBX11K in a download of any layout: each is known by its own name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few

LIST_PARTS = ("train", "val", "trainval")
LIST_NAMES = (*(f"{kind}_{part}" for kind in ("TBX11K", "all") for part in LIST_PARTS), "TBX11K_test", "all_test")
DOCUMENT_NAMES = (
    *(f"{kind}_{part}{only}" for kind in ("TBX11K", "all") for part in LIST_PARTS for only in ("", "_only_tb")),
    "all_test",
)
# Names in re-uploads.
OTHER_LIST_NAMES = {"train": "TBX11K_train", "val": "TBX11K_val", "valid": "TBX11K_val", "trainval": "TBX11K_trainval"}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
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
class Download:
    """The files of TBX11K in a tree."""

    tree: Tree
    images: dict[str, str] = field(default_factory=dict)  # "tb0005" -> file
    documents: dict[str, str] = field(default_factory=dict)  # "TBX11K_train" -> json file
    lists: dict[str, str] = field(default_factory=dict)  # "TBX11K_train" -> text file
    xml: dict[str, str] = field(default_factory=dict)  # "tb0005" -> file
    labels: dict[str, str] = field(default_factory=dict)  # "tb0005" -> YOLO text file
    classes: str | None = None  # the file that names the YOLO classes
    notes: list[str] = field(default_factory=list)


def is_tbx11k(tree: Tree) -> bool:
    """Whether a tree holds files that only TBX11K has: its lists, or annotations or images called like its own.

    Images of one kind do not suffice, as tb0001.png may be anybody's.
    """
    paths = [PurePosixPath(file) for file in tree.sizes]
    names = {path.stem for path in paths if path.suffix in (".json", ".txt")}
    has_list = any(name.startswith("TBX11K") for name in names & {*LIST_NAMES, *DOCUMENT_NAMES})
    has_xml = any(path.suffix == ".xml" and re.fullmatch(r"tb\d{4}", path.stem) for path in paths)
    images = [path.stem for path in paths if path.suffix in IMAGE_ENDINGS]
    kinds = {match[1] for stem in images if (match := re.fullmatch(r"(tb|h|s)\d{4}", stem))}
    return has_list or has_xml or ("tb" in kinds and len(kinds) > 1)


def recognise(tree: Tree) -> Download:
    """Find the images, annotations and lists in a tree.

    Raises:
        DataError: there is no file of TBX11K.
    """
    download = Download(tree)
    others = 0
    repeated: list[str] = []
    for file in sorted(tree.sizes, key=_preference):
        path = PurePosixPath(file)
        kind, key = _classify(path)
        if kind is None:
            others += 1
        elif kind == "classes":
            download.classes = download.classes or file
        elif key in (files := vars(download)[kind]):
            repeated.append(file)
        else:
            files[key] = file
    download.labels = {stem: file for stem, file in download.labels.items() if stem in download.images}
    if tree.outside:
        raise DataError(
            f"{tree.root}: {len(tree.outside)} links lead out of it: {first_few(tree.outside)}. They are not followed, "
            "because they could copy other files of this machine; if you made them, add --follow_links"
        )
    if not download.images and not download.documents and not download.xml:
        raise DataError(
            f"{tree.root}: holds nothing of TBX11K: no image called like tb0005.png, h0001.png or s0001.png and no "
            "annotation file called like TBX11K_train.json or tb0005.xml; it holds "
            f"{first_few(sorted(tree.sizes)) or 'nothing'}"
        )
    if repeated:
        download.notes.append(f"{len(repeated)} files occur more than once and were left out: {first_few(repeated)}")
    if others:
        download.notes.append(f"{others} files are none of TBX11K and were left out")
    return download


def folder_of(stem: str) -> str | None:
    """The folder of an image below imgs/, by its name; '{}' stands for train or val."""
    return next((folder for pattern, folder in FOLDER_OF if pattern.fullmatch(stem)), None)


def _classify(path: PurePosixPath) -> tuple[str | None, str]:
    """The field of `Download` that a file belongs to, and its key there."""
    ending = path.suffix.lower()
    stem = path.stem
    if path.name in CLASS_FILES:
        return "classes", ""
    if ending in IMAGE_ENDINGS and folder_of(stem):
        return "images", stem
    if ending == ".json" and stem in DOCUMENT_NAMES:
        return "documents", stem
    if ending == ".xml" and folder_of(stem):
        return "xml", stem
    if ending == ".txt" and (stem in LIST_NAMES or stem in OTHER_LIST_NAMES):
        return "lists", OTHER_LIST_NAMES.get(stem, stem)
    if ending == ".txt" and folder_of(stem):
        return "labels", stem
    return None, ""


def _preference(file: str) -> tuple[bool, bool, bool, int, str]:
    """Official places first, then png, then the shallowest."""
    path = PurePosixPath(file)
    is_alias = path.stem in OTHER_LIST_NAMES
    return is_alias, not {"imgs", "annotations", "lists"} & {*path.parts}, path.suffix != ".png", len(path.parts), file
