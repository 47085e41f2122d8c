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
    """Finds the image that an annotation names: at that path, else by its own name, wherever it is."""

    def __init__(self, tree: Tree) -> None:
        self.images = images_of(tree)
        self.missing: list[str] = []
        self._tree = tree
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in self.images:
            self._by_name[PurePosixPath(file).name].append(file)
            self._by_stem[PurePosixPath(file).stem].append(file)

    def find(self, name: str, annotation: str, *, side: str = WHOLE) -> str | None:
        """The image called `name`, with any ending where it has none; None, and counted as missing, where none is.

        Images in the folder of another split than `side` do not count. Of several the one counts whose path ends most
        like `name`; then one of the list's side; then the one nearest to the annotation file.

        Raises:
            DataError: two images fit equally.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        found = self._by_name.get(path.name) or self._by_stem.get(path.name, [])
        if side:
            found = [file for file in found if side_of_file(file) in (side, WHOLE)]
        if not found:
            self.missing.append(name)
            return None
        parts = path.parts[:-1]
        beside = PurePosixPath(annotation).parts[:-1]

        def rank(file: str) -> tuple[int, bool, int]:
            folders = PurePosixPath(file).parts[:-1]
            return _equal(folders[::-1], parts[::-1]), side_of_file(file) == side, _equal(folders, beside)

        best = max(map(rank, found))
        equal = [file for file in found if rank(file) == best]
        if len(equal) > 1:
            raise DataError(
                f"{self._tree.root / annotation}: {name!r} may be {first_few(equal)}; give the path of the image there"
            )
        return equal[0]

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


def _equal(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many items from the first on are equal."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
