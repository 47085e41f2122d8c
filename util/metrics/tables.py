"""Detections and ground truth as two plain tables. Every metric is a function of the pair.

A protocol is a view of both tables: some images, some labels. No metric has a mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

TableT = TypeVar("TableT", bound="BoxTable")
BACKGROUND = "background"  # in the keys of a confusion matrix; no category has this key
SLASH = "%2F"  # in the key of a category whose name has a "/", which separates the parts of a key


@dataclass(frozen=True)
class BoxTable:
    """One row per box. `images` also names the images that have no row."""

    images: tuple[int, ...]
    image_id: NDArray[np.int64]  # [N]
    label: NDArray[np.int64]  # [N], category ids
    xyxy: NDArray[np.float64]  # [N, 4], pixels of the original image

    def __post_init__(self) -> None:
        """Refuse images named twice, rows of images that are not listed, and columns that do not fit together."""
        if len(set(self.images)) < len(self.images):
            twice = sorted(i for i, n in Counter(self.images).items() if n > 1)
            raise ValueError(f"images named more than once: {twice[:5]}")
        unknown = set(self.image_id.tolist()) - set(self.images)
        if unknown:
            raise ValueError(f"boxes on images that are not listed: {sorted(unknown)[:5]}")
        lengths = {name: len(getattr(self, name)) for name in columns_of(type(self))}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of unequal length: {lengths}")
        if self.xyxy.shape != (len(self), 4):
            raise ValueError(f"xyxy must be [N, 4] with N = {len(self)}, got {list(self.xyxy.shape)}")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.label)

    def on(self: TableT, images: Collection[int]) -> TableT:
        """Restrict the table to some images."""
        selected = set(images)
        kept = tuple(i for i in self.images if i in selected)
        return self._select(np.isin(self.image_id, kept), kept)

    def select(self: TableT, rows: NDArray[np.bool_] | NDArray[np.int64]) -> TableT:
        """Select rows by a mask or by indices, in the order given; the images stay."""
        return self._select(rows, self.images)

    def _select(self: TableT, rows: NDArray[np.bool_] | NDArray[np.int64], images: tuple[int, ...]) -> TableT:
        columns = {name: getattr(self, name)[rows] for name in columns_of(type(self))}
        return replace(self, images=images, **columns)


@dataclass(frozen=True)
class GroundTruth(BoxTable):
    """The annotated boxes, and the categories and images that they refer to."""

    area: NDArray[np.float64]  # [N], square pixels as the file states them: COCO's size classes go by it
    is_crowd: NDArray[np.bool_]  # [N], COCO: a region where detections count neither way
    names: Mapping[int, str]  # category id -> name
    sizes: Mapping[int, tuple[int, int]]  # image id -> (h, w) pixels
    files: Mapping[int, str]  # image id -> file name, relative to the image folder

    @property
    def category_keys(self) -> dict[int, str]:
        """What each category is called in the keys of metrics, whose parts "/" separates: its name, made unique.

        A "/" in a name is written as %2F. A name that is blank, that of the background, or that of another category is
        followed by its id.
        """
        keys = {k: name.replace("/", SLASH) for k, name in self.names.items()}
        while True:
            counts = Counter([BACKGROUND, *keys.values()])
            unclear = [k for k, key in keys.items() if counts[key] > 1 or not key.strip()]
            if not unclear:
                return keys
            keys |= {k: f"{keys[k]} ({k})".lstrip() for k in unclear}


@dataclass(frozen=True)
class Detections(BoxTable):
    """The boxes that a model predicts, with a score per box."""

    score: NDArray[np.float64]  # [N]

    def above(self, threshold: float) -> Detections:
        """Select the detections whose score is at least `threshold`."""
        return self.select(self.score >= threshold)


def shown_category(key: str) -> str:
    """The name of a category to show for its key, `GroundTruth.category_keys`."""
    return key.replace(SLASH, "/")


def merge_detections(parts: Sequence[Detections], images: tuple[int, ...]) -> Detections:
    """Merge the tables of several ranks, rows in the order of `images`, so the number of ranks changes nothing.

    Raises:
        ValueError: the parts together do not cover `images` exactly once.
    """
    covered = [i for part in parts for i in part.images]
    if sorted(covered) != sorted(images):
        raise ValueError(f"the parts cover {len(covered)} images, expected {len(images)}, each once")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns_of(Detections)}
    place = {image: n for n, image in enumerate(images)}
    order = np.argsort([place[i] for i in columns["image_id"].tolist()], kind="stable")
    return Detections(images=images, **{name: column[order] for name, column in columns.items()})


def columns_of(table: type[BoxTable]) -> list[str]:
    """The names of the fields that have one entry per row."""
    return [f.name for f in fields(table) if f.name not in ("images", "names", "sizes", "files")]
