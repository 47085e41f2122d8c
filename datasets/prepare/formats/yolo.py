"""Ultralytics YOLO: labels/ beside images/ or text files beside the images, and data.yaml or classes.txt."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import Any

from datasets.annotations.records import LabelledBox
from datasets.annotations.yolo import parse_labels, read_class_names, read_yaml
from datasets.prepare.collection import (
    WHOLE,
    Collection,
    Item,
    Locator,
    files_ending,
    images_of,
    settle_lists,
    side_of_file,
)
from datasets.prepare.source import CLASS_FILES
from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few

TITLE = "Ultralytics YOLO"
YAML = (".yaml", ".yml")
SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def find_files(tree: Tree) -> list[str]:
    """The files that name the classes, and the folders of labels by their first file; empty where no image has one."""
    by_depth = sorted(tree.sizes, key=lambda file: (file.count("/"), file))
    usual = [file for file in by_depth if PurePosixPath(file).name in CLASS_FILES]
    yaml = files_ending(tree, *YAML)
    classes = [file for file in usual if file in yaml] + [file for file in usual if file not in yaml]
    classes += [file for file in by_depth if file in yaml and file not in usual]
    labels = sorted(_label_files(tree).values())[:1]
    return classes + labels if labels or any(b"names:" in tree.read(file) for file in usual if file in yaml) else []


def read(tree: Tree, files: list[str]) -> Collection:
    """Images with the boxes of their label files. Class k gets the id k + 1; images without a label file have no boxes.

    Raises:
        DataError: nothing names the classes, a label is damaged, or its image is not there.
    """
    classes = next((file for file in files if not is_label(file)), None)
    if classes is None:
        raise DataError(
            f"{tree.root}: has YOLO labels, but no data.yaml or classes.txt that names the classes; "
            "write classes.txt, a line per class"
        )
    path = tree.root / classes
    names = read_class_names(tree.read(classes), path)
    content = read_yaml(tree.read(classes), path) if path.suffix.lower() in YAML else {}
    if not names:
        raise DataError(f"{path}: names no class; add 'names: [first, second]' with the classes of the labels")
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {content['nc']}, but there are {len(names)} names; correct one of them")
    ids = {number: number + 1 for number in names}
    notes = [f"the classes are those of {classes}"]
    labels = _label_files(tree)
    _refuse_orphans(tree, labels)
    has_points = "kpt_shape" in content
    counts: Counter[str] = Counter()
    lists: dict[str, list[Item]] = {}
    for side, images in _members(tree, classes, content, notes).items():
        lists[side] = []
        for image in images:
            counts["without"] += image not in labels
            boxes = _read_boxes(tree, image, labels.get(image), ids, has_points, counts)
            lists[side].append(Item.of_boxes(image, boxes))
    if counts["without"]:
        notes.append(f"{counts['without']} images have no label file: taken as images without a box")
    if counts["repeated"]:
        notes.append(f"{counts['repeated']} boxes repeat another one of their image and were left out")
    categories = [{"id": ids[number], "name": name} for number, name in names.items()]
    return Collection(tree, TITLE, categories, lists, notes)


def is_label(file: str) -> bool:
    """Whether a file is of the kind of labels, not one that names the classes."""
    return file.lower().endswith(".txt") and PurePosixPath(file).name not in CLASS_FILES


def _label_files(tree: Tree) -> dict[str, str]:
    """Label files by their images: in labels/ in place of images/, else beside the image."""
    return {image: label for image in images_of(tree) for label in _label_names(image) if label in tree.sizes}


def _label_names(image: str) -> list[str]:
    """Where the labels of an image may be, the most usual place last."""
    path = PurePosixPath(image).with_suffix(".txt")
    names = [path.as_posix()]
    if "images" in path.parts:
        place = len(path.parts) - 1 - path.parts[::-1].index("images")
        names.append(PurePosixPath(*path.parts[:place], "labels", *path.parts[place + 1 :]).as_posix())
    return names


def _refuse_orphans(tree: Tree, labels: dict[str, str]) -> None:
    used = set(labels.values())
    texts = [file for file in files_ending(tree, ".txt") if is_label(file) and file not in used]
    orphans = [file for file in texts if "labels" in PurePosixPath(file).parts]
    if orphans:
        raise DataError(
            f"{tree.root}: {len(orphans)} label files have no image: {first_few(orphans)}; add the images in "
            "images/ in place of labels/, or remove these files"
        )


def _read_boxes(
    tree: Tree, image: str, label: str | None, ids: dict[int, int], has_points: bool, counts: Counter[str]
) -> list[LabelledBox]:
    if label is None or not tree.sizes[label]:
        return []
    boxes = parse_labels(tree.read(label), tree.root / label, ids, tree.image_size(image), has_points=has_points)
    kept = {(category, *box): (category, box) for category, box in boxes}
    counts["repeated"] += len(boxes) - len(kept)
    return list(kept.values())


def _members(tree: Tree, classes: str, content: dict[str, Any], notes: list[str]) -> dict[str, list[str]]:
    """The images of each split: as data.yaml says, else by folders called train and val."""
    root = PurePosixPath(classes).parent
    named = {side: next((content[key] for key in keys if content.get(key)), None) for side, keys in SPLIT_KEYS.items()}
    if named["train"] is None:
        found: dict[str, list[str]] = defaultdict(list)
        for image in images_of(tree):
            found[side_of_file(image)].append(image)
        return settle_lists(dict(found), notes)
    base = content.get("path") or ""
    lists = {side: _images_of(tree, classes, root, str(base), value) for side, value in named.items() if value}
    shared = set(lists["train"]) & set(lists.get("val", []))
    if shared and shared == set(lists["train"]) == set(lists["val"]):
        del lists["val"]
        notes.append(f"{classes} gives the same images for train and val")
        lists[WHOLE] = lists.pop("train")
    return {side: list(dict.fromkeys(images)) for side, images in lists.items()}


def _images_of(tree: Tree, classes: str, root: PurePosixPath, base: str, value: object) -> list[str]:
    """The images of a value in data.yaml: a folder, a text file of paths, or a list of these."""
    values = value if isinstance(value, list) else [value]
    found: list[str] = []
    for text in map(str, values):
        place = _find_place(tree, root, base, text)
        if place is None:
            raise DataError(
                f"{tree.root / classes}: names {text[:100]!r}, which is not there; write the folder of the images "
                "relative to this file"
            )
        if place in tree.sizes:
            lines = tree.read(place).decode("utf-8-sig", errors="replace").splitlines()
            locator = Locator(tree)
            images = [locator.find(line.strip(), place) for line in lines if line.strip()]
            locator.refuse_missing(place)
            found += [image for image in images if image]
        else:
            inside = "" if place == "." else f"{place}/"
            found += [file for file in images_of(tree) if file.startswith(inside)]
    if not found:
        raise DataError(f"{tree.root / classes}: {str(value)[:100]!r} holds no image; correct it")
    return found


def _find_place(tree: Tree, root: PurePosixPath, base: str, text: str) -> str | None:
    """The file or folder of the tree that a path in data.yaml means.

    It is relative to `path`, or to the file. Paths of another machine count from any folder on, if two are left:
    /content/data/train/images is train/images.
    """
    folders = {parent.as_posix() for file in tree.sizes for parent in PurePosixPath(file).parents}
    path = PurePosixPath(base.replace("\\", "/"), text.replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("..", ".", "/")]
    own = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    is_elsewhere = PurePosixPath(text).is_absolute()
    candidates = [parts[i:] for i in range(len(parts))] if is_elsewhere else [parts, own]
    if is_elsewhere:
        candidates = [c for c in candidates if len(c) > 1] or candidates
    for candidate in candidates:
        for place in (PurePosixPath(root, *candidate).as_posix(), PurePosixPath(*candidate).as_posix()):
            if place in tree.sizes or place in folders:
                return place
    return None
