"""Layouts of data folders, with errors that explain what is missing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from util.base.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Folders relative to the data folder; '{}' stands for the name of a split."""

    title: str
    images: str
    annotations: str

    def find_split(self, data_path: Path | str, list_name: str) -> tuple[Path, Path]:
        """(image folder, annotation file) of a split.

        Raises:
            DataError: states what is expected, what the folder has, and the fix.
        """
        root = Path(data_path)
        lists = self.lists(root)
        if not lists:
            raise DataError(self._missing(root))
        if list_name not in lists:
            raise DataError(
                f"{root}: {self.title} has no split '{list_name}' there ({self.annotations.format(list_name)});"
                f"{_suggestion(list_name, lists)} available: {', '.join(lists)}; set train_list or val_list accordingly"
            )
        image_dir = root / self.images.format(list_name)
        if not image_dir.is_dir():
            raise DataError(
                f"{root}: the annotations of '{list_name}' are there, but the image folder "
                f"'{self.images.format(list_name)}' is not; the folder holds {_content(root)}; move the images there"
            )
        return image_dir, root / self.annotations.format(list_name)

    def lists(self, root: Path) -> list[str]:
        """Names of the splits whose annotation files are in the data folder `root`."""
        pattern = Path(self.annotations)
        before, after = pattern.name.split("{}")
        files = sorted((root / pattern.parent).glob(f"{before}*{after}"))
        return [file.name[len(before) : len(file.name) - len(after)] for file in files]

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
        return f"{root}: {needed}; this one holds {_content(root)}; check --data_path"


TBX11K = Layout("TBX11K", images="imgs", annotations="annotations/json/{}.json")
COCO = Layout("COCO", images="{}", annotations="annotations/instances_{}.json")


def recognise_layout(root: Path) -> Layout | None:
    """The layout of a data folder, by its annotation files."""
    return next((layout for layout in (TBX11K, COCO) if layout.lists(root)), None)


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
