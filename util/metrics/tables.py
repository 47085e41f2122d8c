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


@dataclass(frozen=True)
class BoxTable:
    """One row per box. `images` also names the images that have no row."""

    images: tuple[int, ...]
    image_id: NDArray[np.int64]  # [N]
    label: NDArray[np.int64]  # [N], category ids
    xyxy: NDArray[np.float64]  # [N, 4], pixels of the original image

    def __post_init__(self) -> None:
        """Refuse an image named twice, rows that belong to no image, and columns that do not fit together."""
        if len(set(self.images)) < len(self.images):
            twice = sorted(i for i, n in Counter(self.images).items() if n > 1)
            raise ValueError(f"images named more than once: {twice[:5]}")
        strangers = set(self.image_id.tolist()) - set(self.images)
        if strangers:
            raise ValueError(f"boxes on images that are not listed: {sorted(strangers)[:5]}")
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self) if f.name not in NOT_COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of unequal length: {lengths}")
        if self.xyxy.shape != (len(self), 4):
            raise ValueError(f"xyxy must be [N, 4] with N = {len(self)}, got {list(self.xyxy.shape)}")

    def __len__(self) -> int:
        """Rows."""
        return len(self.label)

    def on(self: TableT, images: Collection[int]) -> TableT:
        """The same table, cut down to some images."""
        wanted = set(images)
        kept = tuple(i for i in self.images if i in wanted)
        return self._rows(np.isin(self.image_id, kept), images=kept)

    def relabelled(self: TableT, names: Mapping[int, int]) -> TableT:
        """The same boxes under other labels; boxes whose label is not named are dropped.

        `names` maps label -> new label, so {1: 1, 2: 1, 3: 1} makes three classes one.
        """
        rows = self._rows(np.isin(self.label, list(names)))
        return replace(rows, label=np.array([names[k] for k in rows.label.tolist()], dtype=np.int64))

    def _rows(self: TableT, keep: NDArray[np.bool_], **changes: object) -> TableT:
        columns = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name not in NOT_COLUMNS}
        return replace(self, **columns, **changes)


@dataclass(frozen=True)
class GroundTruth(BoxTable):
    """What is there."""

    area: NDArray[np.float64]  # [N], square pixels as the file states them: COCO's size classes go by it
    is_crowd: NDArray[np.bool_]  # [N], COCO: a region where detections count neither way
    names: Mapping[int, str]  # category id -> name
    sizes: Mapping[int, tuple[int, int]]  # image id -> (h, w) pixels
    files: Mapping[int, str]  # image id -> file name, relative to the image folder


@dataclass(frozen=True)
class Detections(BoxTable):
    """What the model says is there, with a score per box."""

    score: NDArray[np.float64]  # [N]


NOT_COLUMNS = {"images", "names", "sizes", "files"}


def merge_detections(parts: Sequence[Detections], images: tuple[int, ...]) -> Detections:
    """The tables of several ranks as one, its rows in the order of `images`: the number of ranks leaves no trace.

    Raises:
        ValueError: the parts together do not cover `images` exactly once.
    """
    covered = [i for part in parts for i in part.images]
    if sorted(covered) != sorted(images):
        raise ValueError(f"the parts cover {len(covered)} images, expected {len(images)}, each once")
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(Detections)
        if f.name not in NOT_COLUMNS
    }
    place = {image: n for n, image in enumerate(images)}
    order = np.argsort([place[i] for i in columns["image_id"].tolist()], kind="stable")
    return Detections(images=images, **{name: column[order] for name, column in columns.items()})
