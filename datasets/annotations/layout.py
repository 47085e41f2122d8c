"""Layouts of data folders, with errors that explain what is missing."""

from __future__ import annotations

import difflib
import filecmp
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from datasets.annotations.name_matching import ENDING
from datasets.annotations.split import Split, load_split
from datasets.annotations.split_names import CLEAN_SUFFIX, is_same_split, side_of
from util.base.errors import DataError
from util.base.reading import read_document

CONVERTER = "python scripts/prepare_data.py"
# Lists of other tasks in the annotations/ folder of COCO
OTHER_TASKS = ("captions_", "image_info_", "instances_", "panoptic_", "person_keypoints_", "stuff_")
FILES_COMPARED = 50  # listed images that are looked for where several folders could hold them
ENTRIES_READ = 5000  # of a folder, to recognise its format
IMAGES_OF_COCO = ("{}", "images/{}", "{}/images", "{}/data", "data/{}", "images", "data")


@dataclass(frozen=True)
class Pattern:
    """Where the annotation file of a split is, relative to the data folder; '{}' stands for the split's name."""

    title: str
    annotations: str
    takes_any_name: bool = False  # else names of train, val and test alone; anything else is probably no split

    def files(self, root: Path) -> dict[str, Path]:
        """The annotation files in the data folder, by the name of their split."""
        before, after = self.annotations.split("{}")
        found = {}
        for file in sorted(root.glob(f"{before}*{after}")):
            name = file.relative_to(root).as_posix()[len(before) :].removesuffix(after)
            is_other = self.annotations == "annotations/{}.json" and name.startswith(OTHER_TASKS)
            is_side = bool(side_of(name.removesuffix(CLEAN_SUFFIX)))
            may_be_other = self.annotations == "annotations/{}.json" and not is_side
            if not is_other and (is_side or self.takes_any_name) and not (may_be_other and not _is_list(file)):
                found[name] = file
        return found


@dataclass(frozen=True)
class Place:
    """Where a split was found."""

    pattern: Pattern
    name: str
    image_dir: Path
    annotation_file: Path

    def describe(self, root: Path) -> str:
        """Annotation file and image folder relative to the data folder."""
        file, folder = (path.relative_to(root).as_posix() for path in (self.annotation_file, self.image_dir))
        return f"{file} with images in {folder}/"


@dataclass(frozen=True)
class Layout:
    """Data folders that one value of `dataset_file` reads."""

    title: str
    patterns: tuple[Pattern, ...]  # the first is the usual one, which messages name
    images: tuple[str, ...]  # folders that may hold the images of a split

    @property
    def annotations(self) -> str:
        """Where annotation files usually are; '{}' stands for the name of a split."""
        return self.patterns[0].annotations

    def find_split(self, data_path: Path | str, list_name: str) -> tuple[Path, Path]:
        """(image folder, annotation file) of a split; see `find`."""
        place = self.find(data_path, list_name)
        return place.image_dir, place.annotation_file

    def load(self, data_path: Path | str, list_name: str) -> Split:
        """Find and read a split.

        Raises:
            DataError: as in `find` and `load_split`.
        """
        place = self.find(data_path, list_name)
        root = Path(data_path)
        usual = (self.patterns[0], list_name, root / self.images[0].format(list_name))
        is_usual = (place.pattern, place.name, place.image_dir) == usual
        return replace(
            load_split(place.image_dir, place.annotation_file),
            list_name=place.name if place.pattern.annotations.startswith("{}/") else "",
            layout="" if is_usual else f"{place.pattern.title} layout: {place.describe(root)}",
        )

    def find(self, data_path: Path | str, list_name: str) -> Place:
        """Find the split of this name; where there is none, that of another word for it, as 'valid' for 'val'.

        Raises:
            DataError: states what is expected, what the folder has, and the fix; or two layouts fit.
        """
        root = Path(data_path)
        files = [(pattern, name, file) for pattern in self.patterns for name, file in pattern.files(root).items()]
        if not files:
            raise DataError(self._missing(root))
        found = [row for row in files if row[1] == list_name] or [
            row for row in files if is_same_split(row[1], list_name)
        ]
        if not found:
            raise DataError(self._no_split(root, list_name))
        placed = [(row, self._image_dir(root, row[1], row[2])) for row in found]
        places = [Place(pattern, name, folder, file) for (pattern, name, file), folder in placed if folder]
        if not places:
            folder = self.images[0].format(found[0][1])
            raise DataError(
                f"{root}: the annotations of '{list_name}' are there, but the image folder "
                f"'{folder}' is not; the folder holds {_content(root)}; move the images there"
            )
        others = [place for place in places[1:] if not _is_copy(place, places[0])]
        if others:
            listed = "; ".join(place.describe(root) for place in (places[0], *others))
            names = sorted({place.name for place in (places[0], *others)})
            if len(names) == 1 + len(others):
                knob = "val_list" if side_of(list_name) == "val" else "train_list"
                raise DataError(
                    f"{root}: {len(names)} lists fit the split '{list_name}': {listed}; "
                    f"set {' or '.join(f'{knob}={name}' for name in names)}"
                )
            raise DataError(
                f"{root}: {1 + len(others)} layouts fit the split '{list_name}': {listed}; "
                "move all but one out of the data folder"
            )
        return places[0]

    def lists(self, root: Path) -> list[str]:
        """Names of the splits whose annotation files are in the data folder `root`."""
        return sorted({name for pattern in self.patterns for name in pattern.files(root)})

    def is_spare(self, root: Path, name: str) -> bool:
        """Whether a list is for neither training nor validation and has no images, so that both work without it."""
        if self is not COCO or side_of(name.removesuffix(CLEAN_SUFFIX)) in ("train", "val"):
            return False
        try:
            self.find(root, name)
        except DataError:
            return True
        return False

    def _image_dir(self, root: Path, name: str, file: Path) -> Path | None:
        """The folder of a split's images: the only one that is there, else the one that holds the listed files."""
        own, others = (
            _distinct(folder for pattern in self.images for folder in find(root, pattern, name))
            for find in (_own_folders, _other_folders)
        )
        names = _listed_names(file) if len(own + others) != 1 else []
        for folders in (own, _distinct(own + others)):
            if len(folders) == 1 and not (others and folders is own):
                return folders[0]
            counts = {folder: sum((folder / name).is_file() for name in names) for folder in folders}
            best = [folder for folder, count in counts.items() if count and count == max(counts.values())]
            if len(best) > 1:
                both = " and ".join(folder.relative_to(root).as_posix() + "/" for folder in best)
                raise DataError(
                    f"{file}: its images are in {both}: which of them is meant? Move all but one out of the data folder"
                )
            if best:
                return best[0]
        is_beside = len(self.images) > 1 and (file.parent == root or any((root / name).is_file() for name in names))
        folders = own + others or ([root] if is_beside else [])
        return next((folder for folder in folders if _holds_images(folder)), next(iter(own + others), None))

    def _no_split(self, root: Path, list_name: str) -> str:
        lists = self.lists(root)
        message = (
            f"{root}: {self.title} has no split '{list_name}' there ({self.annotations.format(list_name)});"
            f"{_suggestion(list_name, lists)} available: {', '.join(lists)}; set train_list or val_list accordingly"
        )
        if len(lists) == 1 and len(self.images) > 1:
            message += f", or divide the list: {CONVERTER} {root} --output_dir OUT"
        return message

    def _missing(self, root: Path) -> str:
        needed = f"{self.title} needs {self.annotations.format('NAME')} in the data folder"
        better = next((folder for folder in _neighbours(root) if self.lists(folder)), None)
        if better is not None:
            return f"{root}: {needed}; that is in {better}: set --data_path {better}"
        if not root.is_dir():
            return f"{root}: there is no such folder; {needed}; check --data_path"
        other = recognise_layout(root)
        if other is not None:
            return f"{root}: {needed}; this looks like {other.title}: set --options dataset_file={other.title.lower()}"
        if title := recognise_convertible(root):
            return f"{root}: {needed}; this looks like {title}: convert it with {CONVERTER} {root} --output_dir OUT"
        return f"{root}: {needed}; this one holds {_content(root)}; check --data_path"


TBX11K = Layout("TBX11K", (Pattern("TBX11K", "annotations/json/{}.json", takes_any_name=True),), ("imgs",))
COCO = Layout(
    "COCO",
    (
        Pattern("COCO", "annotations/instances_{}.json", takes_any_name=True),
        Pattern("annotations/NAME.json", "annotations/{}.json", takes_any_name=True),
        Pattern("Roboflow", "{}/_annotations.coco.json"),
        Pattern("FiftyOne", "{}/labels.json"),
        Pattern("NAME/annotations.json", "{}/annotations.json"),
        Pattern("instances_NAME.json", "instances_{}.json", takes_any_name=True),
        Pattern("NAME.json", "{}.json"),
    ),
    IMAGES_OF_COCO,
)


def recognise_layout(root: Path) -> Layout | None:
    """The layout of a data folder, by its annotation files."""
    return next((layout for layout in (TBX11K, COCO) if layout.lists(root)), None)


def recognise_convertible(root: Path) -> str | None:
    """The format of a folder that scripts/prepare_data.py converts, by its entries and those one level below."""
    paths = list(islice(root.glob("*"), ENTRIES_READ))
    paths += [path for folder in paths if folder.is_dir() for path in islice(folder.glob("*"), ENTRIES_READ)]
    endings = {path.suffix.lower() for path in paths}
    names = {path.name for path in paths}
    if endings & {".yaml", ".yml"} or "labels" in names:
        return "Ultralytics YOLO"
    if ".xml" in endings or "Annotations" in names:
        return "Pascal VOC"
    if ".csv" in endings:
        return "a CSV list"
    return "one COCO list" if ".json" in endings else None


def _own_folders(root: Path, pattern: str, name: str) -> list[Path]:
    """The folders of a pattern with the split's own name that are there."""
    names = dict.fromkeys((name, name.removesuffix(CLEAN_SUFFIX)))
    return [folder for folder in (root / pattern.format(name) for name in names) if folder.is_dir()]


def _other_folders(root: Path, pattern: str, name: str) -> list[Path]:
    """The folders of a pattern with another word for the split."""
    if "{}" not in pattern:
        return []
    words = [path.name for path in sorted((root / pattern.partition("{}")[0]).glob("*"))]
    same = [word for word in words if is_same_split(word, name.removesuffix(CLEAN_SUFFIX))]
    return [folder for folder in (root / pattern.format(word) for word in same) if folder.is_dir()]


def _distinct(folders: Iterable[Path]) -> list[Path]:
    """The folders without links to one before."""
    return list({os.path.realpath(folder): folder for folder in reversed(list(folders))}.values())[::-1]


def _is_list(file: Path) -> bool:
    """Whether a file of any name has the lists of COCO; true also where it cannot be read, which is to be an error."""
    try:
        state = file.stat()
        return _has_lists(file, state.st_mtime_ns, state.st_size)
    except (OSError, EOFError, zlib.error, DataError):
        return True


@lru_cache(maxsize=64)
def _has_lists(file: Path, _mtime: int, _size: int) -> bool:
    content = read_document(file)
    return b'"images"' in content and (b'"annotations"' in content or b'"categories"' in content)


def _listed_names(file: Path) -> list[str]:
    """The first file names of a list; none where it cannot be read, which reading it in full explains."""
    try:
        images = json.loads(read_document(file))["images"][:FILES_COMPARED]
        return [image["file_name"] for image in images if "\0" not in image["file_name"]]
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, KeyError, TypeError):
        return []


def _holds_images(folder: Path) -> bool:
    return any(ENDING.search(path.name) for path in islice(folder.iterdir(), ENTRIES_READ))


def _is_copy(place: Place, other: Place) -> bool:
    """Whether two places are one list: the same images, and equal annotation files."""
    is_same = os.path.realpath(place.image_dir) == os.path.realpath(other.image_dir)
    return is_same and filecmp.cmp(place.annotation_file, other.annotation_file, shallow=False)


def _neighbours(root: Path) -> Iterator[Path]:
    """Folders that the user may have meant: those inside, and two around."""
    if root.is_dir():
        yield from sorted(child for child in root.iterdir() if child.is_dir())
    yield from list(Path(os.path.abspath(root)).parents)[:2]


def _suggestion(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" did you mean '{match[0]}'?" if match else ""


def _content(folder: Path) -> str:
    names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
