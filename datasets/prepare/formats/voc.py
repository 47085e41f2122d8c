"""Pascal VOC: an XML file per image, anywhere in the tree; ImageSets/Main/*.txt or folders divide them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

from datasets.annotations.records import LabelledBox
from datasets.annotations.voc import LARGEST_XML, Voc, parse_voc
from datasets.prepare.collection import (
    WHOLE,
    Collection,
    Item,
    Locator,
    files_ending,
    number_categories,
    settle_lists,
    side_of_file,
)
from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few

TITLE = "Pascal VOC"
LISTS = {"train.txt": "train", "val.txt": "val", "valid.txt": "val", "test.txt": "test"}
WHOLE_LISTS = ("trainval.txt", "all.txt", "default.txt")


def find_files(tree: Tree) -> list[str]:
    """The annotations in a tree."""
    files = files_ending(tree, ".xml")
    return [file for file in files if tree.sizes[file] > LARGEST_XML or b"<annotation" in _start(tree, file)]


def _start(tree: Tree, file: str) -> bytes:
    return tree.read(file)[:10_000].replace(b"\0", b"")


def read(tree: Tree, files: list[str]) -> Collection:
    """Images with the boxes of their files, as x = xmin, y = ymin, w = xmax - xmin, h = ymax - ymin.

    Categories get ids from 1 in the order of their names. Images without a file have no boxes.

    Raises:
        DataError: a file is damaged, its image is not there or has another size, or two describe one image.
    """
    locator = Locator(tree)
    annotations: dict[str, Voc] = {}
    for file in files:
        voc = parse_voc(tree.read(file), tree.root / file)
        image = _image_of(locator, file, voc)
        if image in annotations:
            raise DataError(f"{tree.root / file}: is a second annotation of {image}; leave one of them out")
        if image:
            annotations[image] = voc
    locator.refuse_missing(files[0])
    names = sorted({name for voc in annotations.values() for name, *_ in voc.boxes})
    ids = {name: k for k, name in enumerate(names, start=1)}
    members, notes = _members(tree, locator)
    _refuse_other_sizes(tree, annotations)
    lists = {
        side: [
            Item.of_boxes(image, _boxes(annotations[image], ids) if image in annotations else []) for image in images
        ]
        for side, images in members.items()
    }
    listed = {image for images in members.values() for image in images}
    counts = {
        "images have no xml file: taken as images without a box": len(listed - annotations.keys()),
        "images have an xml file and are in no list: left out": len(annotations.keys() - listed),
        "boxes are marked as difficult: taken like any other": sum(
            annotations[image].num_difficult for image in listed & annotations.keys()
        ),
    }
    notes += [f"{count} {text}" for text, count in counts.items() if count]
    return Collection(tree, TITLE, number_categories(names), lists, notes)


def _image_of(locator: Locator, file: str, voc: Voc) -> str | None:
    """The image with the stem of the xml file, else the one that the file names."""
    stem = PurePosixPath(file).stem
    side = side_of_file(file)
    image = locator.find(stem, file, side=side)
    if image is None and voc.file_name:
        found = locator.find(voc.file_name, file, side=side)
        if found:
            locator.missing.remove(stem)
        else:
            locator.missing.pop()
        return found
    return image


def _members(tree: Tree, locator: Locator) -> tuple[dict[str, list[str]], list[str]]:
    """The images of each list, and notes."""
    files = [file for file in files_ending(tree, ".txt") if "ImageSets" in PurePosixPath(file).parts]
    by_name = {PurePosixPath(file).name: file for file in files}  # of Main, Layout, Segmentation: sorted, Main last
    by_name |= {PurePosixPath(file).name: file for file in files if PurePosixPath(file).parent.name == "Main"}
    lists = {side: by_name[name] for name, side in LISTS.items() if name in by_name}
    if "train" not in lists:
        whole = [by_name[name] for name in WHOLE_LISTS if name in by_name]
        lists |= {WHOLE: whole[0]} if whole else {}
    if not set(lists) & {"train", WHOLE}:
        members: dict[str, list[str]] = defaultdict(list)
        for image in locator.images:
            members[side_of_file(image)].append(image)
        notes: list[str] = []
        return settle_lists(dict(members), notes), notes
    found = {side: _read_list(tree, file, locator) for side, file in lists.items()}
    return found, [f"the lists are those of {first_few(sorted(lists.values()))}"]


def _read_list(tree: Tree, file: str, locator: Locator) -> list[str]:
    lines = tree.read(file).decode("utf-8-sig", errors="replace").splitlines()
    names = dict.fromkeys(line.split()[0] for line in lines if line.strip())
    found = [locator.find(name, file) for name in names]
    locator.refuse_missing(file)
    return [image for image in found if image]


def _boxes(voc: Voc, ids: dict[str, int]) -> list[LabelledBox]:
    return [(ids[name], [xmin, ymin, xmax - xmin, ymax - ymin]) for name, xmin, ymin, xmax, ymax in voc.boxes]


def _refuse_other_sizes(tree: Tree, annotations: dict[str, Voc]) -> None:
    other = []
    for image, voc in annotations.items():
        if voc.width and voc.height and (size := tree.image_size(image)) != (voc.height, voc.width):
            other.append(f"{image} ({size[1]} x {size[0]} instead of {voc.width} x {voc.height})")
    if other:
        raise DataError(
            f"{tree.root}: {len(other)} images have another size (width x height) than their xml files state: "
            f"{first_few(other)}; the boxes would not fit: put the original images back, or correct the files"
        )
