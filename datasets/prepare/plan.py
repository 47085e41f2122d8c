"""Plan the files of a training-ready TBX11K from a download, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets.annotations.records import LabelledBox, parse_records
from datasets.annotations.split import COCO_LISTS, Split, make_split
from datasets.annotations.tbx11k import CATEGORIES, coco_annotation, coco_categories, parse_xml, read_classes
from datasets.annotations.yolo import parse_labels
from datasets.prepare.source import DOCUMENT_NAMES, Download, folder_of
from util.base.errors import DataError
from util.base.text import first_few

OFFICIAL_SIDE = 512  # pixels, of every image that the authors publish
SIDE_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
FOLDER_ORDER = ("tb", "health", "sick", "extra", "test")


@dataclass
class FolderPlan:
    """A data folder in the official layout, before it is written."""

    download: Download
    images: dict[str, str] = field(default_factory=dict)  # name below imgs/ -> file of the download
    xml: dict[str, str] = field(default_factory=dict)  # "tb0005.xml" -> file of the download
    documents: dict[str, bytes] = field(default_factory=dict)  # "TBX11K_train" -> json
    splits: dict[str, Split] = field(default_factory=dict)  # the same, as columns
    built: list[str] = field(default_factory=list)  # documents that the download lacks
    notes: list[str] = field(default_factory=list)
    is_moved: bool = False  # the images are not where the documents place them
    root: str = ""  # of the official layout within the download, unless the images are moved


def make_plan(download: Download) -> FolderPlan:
    """Give every image its official name, and build the missing annotation files.

    Raises:
        DataError: an annotation file cannot be read, or nothing separates train from val.
    """
    plan = FolderPlan(download, notes=list(download.notes))
    raw = {name: _parse(download, name) for name in download.documents}
    lists = {name: [image["file_name"] for image in content["images"]] for name, content in raw.items()}
    lists |= {name: _read_list(download, name) for name in download.lists if name not in lists}
    names = _official_names(download, lists, plan.notes)
    plan.images = {name: download.images[stem] for stem, name in names.items() if stem in download.images}
    plan.xml = {f"{stem}.xml": file for stem, file in download.xml.items()}
    annotations = _Annotations(download, raw)
    for name, content in raw.items():
        renamed = _rename(content, names)
        kept = download.tree.read(download.documents[name])
        plan.documents[name] = json.dumps(content).encode() if renamed else kept
        plan.is_moved |= renamed
    for name, members in _derive(lists, names, download, plan.notes).items():
        members = [names.get(PurePosixPath(member).stem, member) for member in members]
        if name.endswith("_only_tb"):
            members = [member for member in members if annotations.boxes_of(member)]
            if not members:
                plan.notes.append(f"{name} is not built: no image has a box")
                continue
        plan.documents[name] = json.dumps(annotations.document(members)).encode()
        plan.built.append(name)
    plan.splits = {name: _split(content, Path(f"{name}.json")) for name, content in plan.documents.items()}
    _find_root(plan)
    return plan


def _split(content: bytes, file: Path) -> Split:
    return make_split(file.parent, parse_records(content, file, COCO_LISTS), file)


def _parse(download: Download, name: str) -> dict[str, Any]:
    """Read a document of the download. Errors name its place there."""
    file = download.tree.root / download.documents[name]
    content = download.tree.read(download.documents[name])
    unknown = [name for name in _split(content, file).file_names.tolist() if _folder(name) is None]
    if unknown:
        raise DataError(
            f"{file}: {len(unknown)} file names are none of TBX11K, such as tb/tb0005.png: {first_few(unknown)}; "
            "download the file again"
        )
    return json.loads(content)


def _folder(name: str) -> str | None:
    """The folder below imgs/ of a listed image: the one it names, else that of its kind."""
    path = PurePosixPath(name)
    is_official = len(path.parts) > 1 and path.parts[0] in FOLDER_ORDER and ".." not in path.parts and "\0" not in name
    return str(path.parent) if is_official else folder_of(path.stem)


def _read_list(download: Download, name: str) -> list[str]:
    """File names below imgs/ of a list. Names unknown to TBX11K are an error."""
    file = download.tree.root / download.lists[name]
    lines = download.tree.read(download.lists[name]).decode("utf-8-sig", errors="replace").splitlines()
    members = []
    for line in filter(None, map(str.strip, lines)):
        path = PurePosixPath(line.split()[0])
        folder = folder_of(path.stem)
        if folder is None:
            raise DataError(
                f"{file}: {line[:60]!r} is no image of TBX11K (tb/tb0005.png is one); download the list again"
            )
        part = SIDE_OF_FOLDER.get(path.parent.name, name.rpartition("_")[2])
        members.append(f"{folder.format(part)}/{path.stem}{path.suffix or '.png'}")
    if len(set(members)) < len(members):
        raise DataError(f"{file}: lists {len(members) - len(set(members))} images twice; download the list again")
    return members


def _official_names(download: Download, lists: dict[str, list[str]], notes: list[str]) -> dict[str, str]:
    """Names below imgs/ by stem, with the ending that the image file has."""
    listed = {PurePosixPath(name).stem: name for members in lists.values() for name in members}
    names = {}
    unlisted = []
    for stem in {**listed, **download.images}:
        file = PurePosixPath(download.images.get(stem, listed.get(stem, "")))
        side = _side_of(file)
        folder = _folder(listed[stem]) if stem in listed else folder_of(stem)
        assert folder is not None, f"{stem} was recognised by its folder"
        if "{}" in folder and side is None:
            unlisted.append(file.as_posix())
            continue
        names[stem] = f"{folder.format(side)}/{stem}{file.suffix}"
    if unlisted:
        notes.append(f"{len(unlisted)} extra images are in no list and were left out: {first_few(unlisted)}")
    changed = [name for stem, name in names.items() if stem in listed and listed[stem] != name]
    if changed:
        notes.append(f"{len(changed)} images have another ending than listed: {first_few(changed)}; the json follows")
    return names


def _side_of(file: PurePosixPath) -> str | None:
    """Train or val, by the innermost folder of that name."""
    return next((SIDE_OF_FOLDER[part] for part in reversed(file.parts[:-1]) if part in SIDE_OF_FOLDER), None)


def _rename(content: dict[str, Any], names: dict[str, str]) -> bool:
    """Give a document the endings of the image files; return whether anything changed."""
    before = [image["file_name"] for image in content["images"]]
    for image in content["images"]:
        image["file_name"] = names.get(PurePosixPath(image["file_name"]).stem, image["file_name"])
    return before != [image["file_name"] for image in content["images"]]


def _derive(
    lists: dict[str, list[str]], names: dict[str, str], download: Download, notes: list[str]
) -> dict[str, list[str]]:
    """The members of the missing documents that can be built."""
    lists = {"all_test": lists["TBX11K_test"], **lists} if "TBX11K_test" in lists else dict(lists)
    for part in ("train", "val", "trainval"):
        if f"all_{part}" in lists:
            without_extra = [name for name in lists[f"all_{part}"] if not name.startswith("extra/")]
            lists.setdefault(f"TBX11K_{part}", without_extra)
    if not {"TBX11K_train", "TBX11K_trainval"} & lists.keys():
        lists |= _by_folder(download, names, notes)
    for kind in ("TBX11K", "all"):
        if f"{kind}_train" in lists and f"{kind}_val" in lists:
            lists.setdefault(f"{kind}_trainval", _in_order(lists[f"{kind}_train"] + lists[f"{kind}_val"]))
    for part in ("train", "val", "trainval"):
        if f"TBX11K_{part}" in lists:
            lists.setdefault(f"TBX11K_{part}_only_tb", lists[f"TBX11K_{part}"])
    return {name: lists[name] for name in DOCUMENT_NAMES if name in lists and name not in download.documents}


def _by_folder(download: Download, names: dict[str, str], notes: list[str]) -> dict[str, list[str]]:
    """Splits according to folders called train and val."""
    found: dict[str, list[str]] = {"TBX11K_train": [], "TBX11K_val": []}
    for stem, file in download.images.items():
        side = _side_of(PurePosixPath(file))
        if side and stem in names and names[stem].split("/")[0] in ("tb", "health", "sick"):
            found[f"TBX11K_{side}"].append(names[stem])
    if not all(found.values()):
        raise DataError(
            f"{download.tree.root}: nothing separates training from validation: there is no TBX11K_train.json, no "
            "lists/TBX11K_train.txt and no folders train and val; add the authors' lists/TBX11K_train.txt and "
            "TBX11K_val.txt"
        )
    notes.append(
        "train and val follow the folders of that name; they are the authors' only where the counts below agree"
    )
    return {name: _in_order(members) for name, members in found.items()}


def _in_order(names: Iterable[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        folder = name.split("/")[0]
        return FOLDER_ORDER.index(folder) if folder in FOLDER_ORDER else len(FOLDER_ORDER), name

    return sorted(names, key=place)


class _Annotations:
    """Boxes and sizes of images, in order of preference from the authors' json, their xml, or YOLO labels."""

    def __init__(self, download: Download, documents: dict[str, dict[str, Any]]) -> None:
        self.download = download
        self.sizes: dict[str, tuple[int, int]] = {}
        self.boxes: dict[str, list[LabelledBox]] = {}
        for content in documents.values():
            names = {image["id"]: PurePosixPath(image["file_name"]).stem for image in content["images"]}
            self.sizes |= {names[image["id"]]: (image["height"], image["width"]) for image in content["images"]}
            boxes: dict[str, list[LabelledBox]] = {stem: [] for stem in names.values()}
            for box in content["annotations"]:
                boxes[names[box["image_id"]]].append((box["category_id"], box["bbox"]))
            self.boxes |= boxes
        self.classes = _read_classes(download)

    def size_of(self, stem: str) -> tuple[int, int]:
        """(height, width) pixels."""
        if stem not in self.sizes:
            file = self.download.images.get(stem)
            self.sizes[stem] = self.download.tree.image_size(file) if file else (OFFICIAL_SIDE, OFFICIAL_SIDE)
        return self.sizes[stem]

    def boxes_of(self, name: str) -> list[LabelledBox]:
        """(category id, [x, y, w, h]) pixels."""
        stem = PurePosixPath(name).stem
        if stem not in self.boxes:
            self.boxes[stem] = self._read_boxes(stem)
        return self.boxes[stem]

    def _read_boxes(self, stem: str) -> list[LabelledBox]:
        tree = self.download.tree
        size = self.size_of(stem)
        if file := self.download.xml.get(stem):
            return parse_xml(tree.read(file), tree.root / file, size)
        if (file := self.download.labels.get(stem)) and tree.sizes[file]:
            return parse_labels(tree.read(file), tree.root / file, self.classes, size)
        return []

    def document(self, names: list[str]) -> dict[str, Any]:
        """A COCO document with the keys of the authors' files; ids begin at 1."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, name in enumerate(names, start=1):
            height, width = self.size_of(PurePosixPath(name).stem)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for category, box in self.boxes_of(name):
                area = np.float32(box[2]) * np.float32(box[3])
                annotation_id = len(annotations) + 1
                annotations.append(
                    coco_annotation(annotation_id, image_id, category, box, area, width=width, height=height)
                )
        return {"categories": coco_categories(), "images": images, "annotations": annotations}


def _read_classes(download: Download) -> dict[int, int]:
    """Category ids of the YOLO classes, where a label file has a line."""
    tree = download.tree
    if not any(tree.sizes[file] for file in download.labels.values()):
        return {}
    if download.classes is None:
        raise DataError(
            f"{tree.root}: has YOLO labels, but no classes.txt or data.yaml that names the classes; "
            f"write classes.txt, a line per class: {', '.join(CATEGORIES.values())}"
        )
    return read_classes(tree.read(download.classes), tree.root / download.classes)


def _find_root(plan: FolderPlan) -> None:
    """Find the root of the official layout in the download, if it has one."""
    ends = {f"imgs/{name}": file for name, file in plan.images.items()}
    ends |= {f"annotations/json/{name}.json": file for name, file in plan.download.documents.items()}
    roots = {file[: -len(end)] if f"/{file}".endswith(f"/{end}") else None for end, file in ends.items()}
    if plan.is_moved or len(roots) != 1 or None in roots:
        plan.is_moved = True
        return
    plan.root = roots.pop() or ""
