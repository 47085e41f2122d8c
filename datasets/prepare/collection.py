"""Images with boxes as some format of annotations lists them, and where their files are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from datasets.annotations.records import LabelledBox
from datasets.annotations.split_names import side_of
from datasets.prepare.tree import Tree
from util.base.errors import DataError
from util.base.text import first_few
from util.predict.inputs import ENDINGS

WHOLE = ""  # name of a list that is not divided into training and validation

T = TypeVar("T")


@dataclass
class Item:
    """An image of a list, with the keys of its COCO record and those of its boxes; ids are given where they lack."""

    file: str  # in the tree
    record: dict[str, Any] = field(default_factory=dict)
    boxes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_boxes(cls, file: str, boxes: Iterable[LabelledBox]) -> Item:
        """An image with (category id, [x, y, w, h]) boxes."""
        return cls(file, boxes=[{"category_id": category, "bbox": box} for category, box in boxes])


@dataclass
class Collection:
    """All lists of a tree."""

    tree: Tree
    title: str  # of the format
    categories: list[dict[str, Any]]
    lists: dict[str, list[Item]]  # by "train", "val", "test", or WHOLE
    notes: list[str] = field(default_factory=list)


def number_categories(names: Iterable[str]) -> list[dict[str, Any]]:
    """COCO categories with the ids 1, 2, ... in this order."""
    return [{"id": k, "name": name} for k, name in enumerate(names, start=1)]


def files_ending(tree: Tree, *endings: str) -> list[str]:
    """The files of a tree with one of these endings, without hidden ones, such as those that macOS adds."""
    shown = [file for file in sorted(tree.sizes) if not PurePosixPath(file).name.startswith(".")]
    return [file for file in shown if PurePosixPath(file).suffix.lower() in endings]


def images_of(tree: Tree) -> list[str]:
    """The files of a tree that are called like images."""
    return files_ending(tree, *ENDINGS)


def side_of_file(file: str) -> str:
    """ "train", "val" or "test" by the innermost folder of such a name; WHOLE where there is none."""
    folders = reversed(PurePosixPath(file).parts[:-1])
    return next((side for folder in folders if (side := side_of(folder))), WHOLE)


def settle_lists(lists: dict[str, list[T]], notes: list[str]) -> dict[str, list[T]]:
    """The lists that are not empty. Images of no split are left out where there are train and val, else join train."""
    kept = {name: items for name, items in lists.items() if items}
    if WHOLE in kept and {"train", "val"} <= kept.keys():
        notes.append(f"{len(kept.pop(WHOLE))} images are in neither train, val nor test and were left out")
    if WHOLE in kept and "val" not in kept:
        kept[WHOLE] = kept.pop("train", []) + kept[WHOLE]
    return kept


class Locator:
    """Finds the image that an annotation names: at that path, else where one path ends like the other."""

    def __init__(self, tree: Tree) -> None:
        self.images = images_of(tree)
        self.missing: list[str] = []
        self._tree = tree
        self._paths = {file: PurePosixPath(file) for file in self.images}
        self._sides = {file: side_of_file(file) for file in self.images}
        self._by_name = _Index(self._paths.items())
        self._by_stem = _Index((file, path.with_suffix("")) for file, path in self._paths.items())
        self._claims: dict[tuple[str, str], str] = {}  # (annotation, image) -> the name that stands for it there

    def find(self, name: str, annotation: str, *, side: str = WHOLE) -> str | None:
        """The image called `name`, with any ending where it has none; None, and counted as missing, where none is.

        Images in the folder of another split than `side` do not count, nor do those whose folders contradict `name`.
        Of several the one counts whose path ends most like `name`; then one of the list's side; then the one nearest
        to the annotation file.

        Raises:
            DataError: two images fit equally, or two names of the annotation file stand for one image.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        parts = tuple(part for part in path.parts if part not in ("/", "..") and not part.endswith(":"))
        beside = PurePosixPath(annotation).parts[:-1]
        found: list[str] = []
        for index in (self._by_name, self._by_stem):
            found = [file for file in index.find(parts, beside) if not side or self._sides[file] in (side, WHOLE)]
            if found:
                break
        if not found:
            self.missing.append(name)
            return None
        image = self._nearest(found, parts, beside, side)
        if image is None:
            raise DataError(
                f"{self._tree.root / annotation}: {name!r} may be {first_few(found)}; give the path of the image there"
            )
        first = self._claims.setdefault((annotation, image), "/".join(parts))
        if first != "/".join(parts):
            raise DataError(
                f"{self._tree.root / annotation}: {first!r} and {name!r} would both be {image}; add the image that "
                "is not there, or give one image one name"
            )
        return image

    def _nearest(self, found: list[str], parts: tuple[str, ...], beside: tuple[str, ...], side: str) -> str | None:
        """The image that fits best; None where several do."""
        if len(found) == 1:
            return found[0]

        def rank(file: str) -> tuple[int, bool, int]:
            folders = self._paths[file].parts[:-1]
            return _equal(folders[::-1], parts[-2::-1]), self._sides[file] == side, _equal(folders, beside)

        ranks = [rank(file) for file in found]
        best = max(ranks)
        return found[ranks.index(best)] if ranks.count(best) == 1 else None

    def refuse_missing(self, annotation: str) -> None:
        """Refuse annotations whose images are not there.

        Raises:
            DataError: states how many, and the first.
        """
        if self.missing:
            raise DataError(
                f"{self._tree.root / annotation}: {len(self.missing)} images that it describes are not there: "
                f"{first_few(self.missing)}; add them, or remove their annotations"
            )


class _Index:
    """Files by their paths, and by the ends of these."""

    def __init__(self, paths: Iterable[tuple[str, PurePosixPath]]) -> None:
        self._whole: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self._ends: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for file, path in paths:
            self._whole[path.parts].append(file)
            for i in range(len(path.parts)):
                self._ends[path.parts[i:]].append(file)

    def find(self, parts: tuple[str, ...], beside: tuple[str, ...]) -> list[str]:
        """Files at this path, from the folder `beside` or from the root; else those whose paths end so, and those
        that the path ends with, as the path of another machine does, from the root or from a folder around `beside`.
        """
        if exact := self._whole.get((*beside, *parts)) or (len(parts) > 1 and self._whole.get(parts)):
            return exact
        found = dict.fromkeys(self._ends.get(parts, []))
        for i in range(1, len(parts)):
            for depth in range(len(beside) + 1):
                # A name alone says nothing of the folder `beside`.
                if depth == 0 or i < len(parts) - 1:
                    found |= dict.fromkeys(self._whole.get((*beside[:depth], *parts[i:]), []))
        return list(found)


def _equal(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many items from the first on are equal."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
