"""What a training-ready TBX11K will hold, made from what was recognised; nothing is written here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets.annotations.records import LabelledBox, parse_records
from datasets.annotations.split import LISTS, Split, make_split
from datasets.annotations.tbx11k import CATEGORIES
from datasets.annotations.voc import parse_voc
from datasets.annotations.yolo import parse_labels, read_classes
from datasets.prepare.source import DOCUMENTS, Source, folder_of
from util.base.errors import DataError
from util.base.text import first_few

SIDE = 512  # pixels, of every image that the authors publish
SIDES = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
ORDER = ("tb", "health", "sick", "extra", "test")


@dataclass
class Plan:
    """A data folder in the official layout, before it is written."""

    source: Source
    images: dict[str, str] = field(default_factory=dict)  # name below imgs/ -> file of the source
    xml: dict[str, str] = field(default_factory=dict)  # "tb0005.xml" -> file of the source
    documents: dict[str, bytes] = field(default_factory=dict)  # "TBX11K_train" -> json
    splits: dict[str, Split] = field(default_factory=dict)  # the same, as columns
    built: list[str] = field(default_factory=list)  # documents that were not there
    notes: list[str] = field(default_factory=list)
    is_moved: bool = False  # the images do not lie as the documents say
    root: str = ""  # of the official layout within the source, unless the images are moved


def make_plan(source: Source) -> Plan:
    """Give every image its official name, and build the annotation files that are not there.

    Raises:
        DataError: an annotation file cannot be read, or nothing tells train from val.
    """
    plan = Plan(source, notes=list(source.notes))
    raw = {name: _parse(source, name) for name in source.documents}
    lists = {name: [image["file_name"] for image in content["images"]] for name, content in raw.items()}
    lists |= {name: _read_list(source, name) for name in source.lists if name not in lists}
    names = _official_names(source, lists, plan.notes)
    plan.images = {name: source.images[stem] for stem, name in names.items() if stem in source.images}
    plan.xml = {f"{stem}.xml": file for stem, file in source.xml.items()}
    facts = _Facts(source, raw)
    for name, content in raw.items():
        renamed = _rename(content, names)
        kept = source.tree.read(source.documents[name])
        plan.documents[name] = json.dumps(content).encode() if renamed else kept
        plan.is_moved |= renamed
    for name, members in _derive(lists, names, source, plan.notes).items():
        members = [names.get(PurePosixPath(member).stem, member) for member in members]
        if name.endswith("_only_tb"):
            members = [member for member in members if facts.boxes_of(member)]
            if not members:
                plan.notes.append(f"{name} is not built: no image has a box")
                continue
        plan.documents[name] = json.dumps(facts.document(members)).encode()
        plan.built.append(name)
    plan.splits = {name: _split(content, Path(f"{name}.json")) for name, content in plan.documents.items()}
    _find_root(plan)
    return plan


def _split(content: bytes, file: Path) -> Split:
    return make_split(file.parent, parse_records(content, file, LISTS), file)


def _parse(source: Source, name: str) -> dict[str, Any]:
    """A document that is there. What is wrong with it is told by its place in the source."""
    file = source.tree.root / source.documents[name]
    content = source.tree.read(source.documents[name])
    strange = [name for name in _split(content, file).file_names.tolist() if _home(name) is None]
    if strange:
        raise DataError(
            f"{file}: {len(strange)} file names are none of TBX11K, such as tb/tb0005.png: {first_few(strange)}; "
            "download the file again"
        )
    return json.loads(content)


def _home(name: str) -> str | None:
    """The folder below imgs/ of a listed image: the one it names, else that of its kind."""
    path = PurePosixPath(name)
    is_official = len(path.parts) > 1 and path.parts[0] in ORDER and ".." not in path.parts and "\0" not in name
    return str(path.parent) if is_official else folder_of(path.stem)


def _read_list(source: Source, name: str) -> list[str]:
    """File names below imgs/ of a list; those that TBX11K does not have are an error."""
    file = source.tree.root / source.lists[name]
    lines = source.tree.read(source.lists[name]).decode("utf-8-sig", errors="replace").splitlines()
    members = []
    for line in filter(None, map(str.strip, lines)):
        path = PurePosixPath(line.split()[0])
        folder = folder_of(path.stem)
        if folder is None:
            raise DataError(
                f"{file}: {line[:60]!r} is no image of TBX11K (tb/tb0005.png is one); download the list again"
            )
        part = SIDES.get(path.parent.name, name.rpartition("_")[2])
        members.append(f"{folder.format(part)}/{path.stem}{path.suffix or '.png'}")
    if len(set(members)) < len(members):
        raise DataError(f"{file}: lists {len(members) - len(set(members))} images twice; download the list again")
    return members


def _official_names(source: Source, lists: dict[str, list[str]], notes: list[str]) -> dict[str, str]:
    """Names below imgs/ by stem, with the ending that the image file has."""
    listed = {PurePosixPath(name).stem: name for members in lists.values() for name in members}
    names = {}
    homeless = []
    for stem in {**listed, **source.images}:
        file = PurePosixPath(source.images.get(stem, listed.get(stem, "")))
        side = next((SIDES[part] for part in reversed(file.parts[:-1]) if part in SIDES), None)
        folder = _home(listed[stem]) if stem in listed else folder_of(stem)
        if "{}" in folder and side is None:
            homeless.append(file.as_posix())
            continue
        names[stem] = f"{folder.format(side)}/{stem}{file.suffix}"
    if homeless:
        notes.append(f"{len(homeless)} extra images are in no list and were left out: {first_few(homeless)}")
    changed = [name for stem, name in names.items() if stem in listed and listed[stem] != name]
    if changed:
        notes.append(f"{len(changed)} images have another ending than listed: {first_few(changed)}; the json follows")
    return names


def _rename(content: dict[str, Any], names: dict[str, str]) -> bool:
    """Let a document follow the endings of the image files; whether anything changed."""
    before = [image["file_name"] for image in content["images"]]
    for image in content["images"]:
        image["file_name"] = names.get(PurePosixPath(image["file_name"]).stem, image["file_name"])
    return before != [image["file_name"] for image in content["images"]]


def _derive(
    lists: dict[str, list[str]], names: dict[str, str], source: Source, notes: list[str]
) -> dict[str, list[str]]:
    """The members of the documents that are not there but can be built."""
    lists = {"all_test": lists["TBX11K_test"], **lists} if "TBX11K_test" in lists else dict(lists)
    for part in ("train", "val", "trainval"):
        if f"all_{part}" in lists:
            own = [name for name in lists[f"all_{part}"] if not name.startswith("extra/")]
            lists.setdefault(f"TBX11K_{part}", own)
    if not {"TBX11K_train", "TBX11K_trainval"} & lists.keys():
        lists |= _by_folder(source, names, notes)
    for kind in ("TBX11K", "all"):
        if f"{kind}_train" in lists and f"{kind}_val" in lists:
            lists.setdefault(f"{kind}_trainval", _in_order(lists[f"{kind}_train"] + lists[f"{kind}_val"]))
    for part in ("train", "val", "trainval"):
        if f"TBX11K_{part}" in lists:
            lists.setdefault(f"TBX11K_{part}_only_tb", lists[f"TBX11K_{part}"])
    return {name: lists[name] for name in DOCUMENTS if name in lists and name not in source.documents}


def _by_folder(source: Source, names: dict[str, str], notes: list[str]) -> dict[str, list[str]]:
    """Splits as folders called train and val say."""
    found: dict[str, list[str]] = {"TBX11K_train": [], "TBX11K_val": []}
    for stem, file in source.images.items():
        side = next((SIDES[part] for part in reversed(PurePosixPath(file).parts[:-1]) if part in SIDES), None)
        if side and stem in names and names[stem].split("/")[0] in ("tb", "health", "sick"):
            found[f"TBX11K_{side}"].append(names[stem])
    if not all(found.values()):
        raise DataError(
            f"{source.tree.root}: nothing tells training from validation: there is no TBX11K_train.json, no "
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
        return ORDER.index(folder) if folder in ORDER else len(ORDER), name

    return sorted(names, key=place)


class _Facts:
    """Boxes and sizes of images, from the best source there is: the authors' json, their xml, YOLO labels."""

    def __init__(self, source: Source, documents: dict[str, dict[str, Any]]) -> None:
        self.source = source
        self.sizes: dict[str, tuple[int, int]] = {}
        self.boxes: dict[str, list[LabelledBox]] = {}
        for content in documents.values():
            names = {image["id"]: PurePosixPath(image["file_name"]).stem for image in content["images"]}
            self.sizes |= {names[image["id"]]: (image["height"], image["width"]) for image in content["images"]}
            boxes: dict[str, list[LabelledBox]] = {stem: [] for stem in names.values()}
            for box in content["annotations"]:
                boxes[names[box["image_id"]]].append((box["category_id"], box["bbox"]))
            self.boxes |= boxes
        tree = source.tree
        self.classes = (
            read_classes(tree.read(source.classes), tree.root / source.classes) if self._needs_classes else []
        )

    @property
    def _needs_classes(self) -> bool:
        if not any(self.source.tree.sizes[file] for file in self.source.labels.values()):
            return False
        if not self.source.classes:
            raise DataError(
                f"{self.source.tree.root}: has YOLO labels, but no classes.txt or data.yaml that names the classes; "
                f"write classes.txt, a line per class: {', '.join(CATEGORIES.values())}"
            )
        return True

    def size_of(self, stem: str) -> tuple[int, int]:
        """(height, width) pixels."""
        if stem not in self.sizes:
            file = self.source.images.get(stem)
            self.sizes[stem] = self.source.tree.image_size(file) if file else (SIDE, SIDE)
        return self.sizes[stem]

    def boxes_of(self, name: str) -> list[LabelledBox]:
        """(category id, [x, y, w, h]) pixels."""
        stem = PurePosixPath(name).stem
        if stem not in self.boxes:
            self.boxes[stem] = self._read_boxes(stem)
        return self.boxes[stem]

    def _read_boxes(self, stem: str) -> list[LabelledBox]:
        tree = self.source.tree
        size = self.size_of(stem)
        if file := self.source.xml.get(stem):
            return parse_voc(tree.read(file), tree.root / file).scaled(*size)
        if (file := self.source.labels.get(stem)) and tree.sizes[file]:
            return parse_labels(tree.read(file), tree.root / file, self.classes, size)
        return []

    def document(self, names: list[str]) -> dict[str, Any]:
        """A COCO document with the keys of the authors' files; ids begin at 1."""
        images = []
        annotations = []
        for image_id, name in enumerate(names, start=1):
            height, width = self.size_of(PurePosixPath(name).stem)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for category, box in self.boxes_of(name):
                area = int(np.float32(box[2]) * np.float32(box[3]))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "iscrowd": 0,
                        "area": area,
                        "bbox": box,
                        "width": width,
                        "height": height,
                    }
                )
        categories = [{"id": k, "name": v, "supercategory": "Tuberculosis"} for k, v in CATEGORIES.items()]
        return {"categories": categories, "images": images, "annotations": annotations}


def _find_root(plan: Plan) -> None:
    """Where the official layout stands in the source, if it does."""
    ends = {f"imgs/{name}": file for name, file in plan.images.items()}
    ends |= {f"annotations/json/{name}.json": file for name, file in plan.source.documents.items()}
    roots = {file[: -len(end)] if f"/{file}".endswith(f"/{end}") else None for end, file in ends.items()}
    if plan.is_moved or len(roots) != 1 or None in roots:
        plan.is_moved = True
        return
    plan.root = roots.pop() or ""
