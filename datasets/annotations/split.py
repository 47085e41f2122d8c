"""Read a COCO-format file as columns of numbers, without torch: tools that only score need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.records import Records, read_records
from util.base.errors import DataError
from util.base.text import first_few
from util.detection.class_map import IDENTITY, ClassMap
from util.images.depth import ALONE, ReadingRules
from util.metrics.tables import GroundTruth

COCO_LISTS = ("images", "annotations", "categories")
# Annotation tools round and count from 0 or 1; beyond a pixel a box belongs to another image or another size of it.
OVERHANG_TOLERANCE = 1.0


@dataclass(frozen=True, eq=False)
class Split:
    """The content of a COCO-format file: I images with N boxes.

    Columns of numbers rather than an object per box: loader processes share them with their parent instead of
    copying them page by page. Boxes are sorted by image, in the order of the file within an image. Boxes without area
    are left out: nothing can match them.
    """

    image_dir: Path
    annotation_file: Path
    image_ids: NDArray[np.int64]  # [I]
    file_names: NDArray[np.str_]  # [I], relative to image_dir
    sizes: NDArray[np.int64]  # [I, 2] (h, w) pixels
    first_box: NDArray[np.int64]  # [I + 1]; the boxes of image i are the rows first_box[i] to first_box[i + 1]
    xywh: NDArray[np.float64]  # [N, 4] left, top, width, height in pixels
    labels: NDArray[np.int64]  # [N] category ids
    area: NDArray[np.float64]  # [N] square pixels, as the file states them
    is_crowd: NDArray[np.bool_]  # [N]
    is_rotated: NDArray[np.bool_]  # [N]: the file states a rotation (CVAT), which is not read
    num_empty: NDArray[np.int64]  # [I] boxes of each image that were left out, as they have no area
    names: dict[int, str]  # category id -> name
    list_name: str = ""  # of the split, where annotation files of all splits have the same name
    layout: str = ""  # for the log: where it was found, unless at the usual place
    notes: tuple[str, ...] = ()  # what was not as COCO has it, and how it was read
    classes: ClassMap = IDENTITY  # class indices of the categories, for the targets of the network
    rules: ReadingRules = ALONE  # by which its image files are read

    @property
    def name(self) -> str:
        """The annotation file's name without its ending, unless another is given."""
        return self.list_name or self.annotation_file.stem

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The ids that the file lists as categories, rising."""
        return tuple(sorted(self.names))

    @property
    def num_images(self) -> int:
        """Number of images, with and without boxes."""
        return len(self.image_ids)

    @property
    def num_boxes(self) -> int:
        """Number of boxes without crowd regions."""
        return int((~self.is_crowd).sum())

    @cached_property
    def image_of_box(self) -> NDArray[np.int64]:
        """[N]: the position in `image_ids` of each box's image."""
        return np.repeat(np.arange(self.num_images), np.diff(self.first_box))

    @cached_property
    def files_by_id(self) -> dict[int, str]:
        """File names by image id."""
        return dict(zip(self.image_ids.tolist(), self.file_names.tolist(), strict=True))

    def path(self, index: int) -> Path:
        """The image file at position `index`."""
        return self.image_dir / str(self.file_names[index])

    def require_files(self, evaluated: Mapping[int, str], advice: str) -> None:
        """Check that evaluated images, files by id, are of this list; ids alone begin with 1 in each.

        Raises:
            DataError: an image has another file in this list; the message ends with the advice.
        """
        other = [name for image, name in evaluated.items() if self.files_by_id.get(image) != name]
        if other:
            differ = f"{len(other)} images differ, as {other[0]}"
            raise DataError(f"{self.annotation_file}: is not the list that was evaluated: {differ}. {advice}")

    def boxes_of(self, index: int) -> slice:
        """The rows of the boxes of the image at position `index`."""
        return slice(int(self.first_box[index]), int(self.first_box[index + 1]))

    def without(self, positions: NDArray[np.int64]) -> Split:
        """The same split without the images at `positions` and their boxes."""
        is_kept = ~np.isin(np.arange(self.num_images), positions)
        rows = is_kept[self.image_of_box]
        return replace(
            self,
            image_ids=self.image_ids[is_kept],
            file_names=self.file_names[is_kept],
            sizes=self.sizes[is_kept],
            first_box=np.concatenate([[0], np.cumsum(np.diff(self.first_box)[is_kept])]),
            num_empty=self.num_empty[is_kept],
            xywh=self.xywh[rows],
            labels=self.labels[rows],
            area=self.area[rows],
            is_crowd=self.is_crowd[rows],
            is_rotated=self.is_rotated[rows],
        )

    def ground_truth(self) -> GroundTruth:
        """The ground truth of the metrics: boxes [N, 4] xyxy as the file states them, not clipped."""
        ids = self.image_ids.tolist()
        return GroundTruth(
            images=tuple(ids),
            image_id=self.image_ids[self.image_of_box],
            label=self.labels,
            xyxy=np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1),
            area=self.area,
            is_crowd=self.is_crowd,
            names=self.names,
            sizes={i: (h, w) for i, (h, w) in zip(ids, self.sizes.tolist(), strict=True)},
            files=self.files_by_id,
        )


def load_split(image_dir: Path | str, annotation_file: Path | str) -> Split:
    """Read a COCO-format file. The images are not read; `datasets.checks.split` checks them.

    A box without "area" gets width x height, one without "iscrowd" is no crowd. Boxes without width or height in their
    image are left out.

    Raises:
        DataError: the file is missing, is not JSON, is not COCO, repeats an image, or has a box on an image or of a
            category that it does not list.
    """
    file = Path(annotation_file)
    return make_split(image_dir, read_records(file, COCO_LISTS), file)


def load_file_names(annotation_file: Path) -> dict[int, str]:
    """Read the file names of a COCO-format file by image id; it needs no annotations and no categories.

    Raises:
        DataError: the file is missing, is not JSON, or has no valid list of images.
    """
    images = read_records(annotation_file, ("images",))["images"]
    return dict(zip(_unique(images, images.image_ids("id")).tolist(), images.texts("file_name"), strict=True))


def make_split(image_dir: Path | str, lists: dict[str, Records], file: Path) -> Split:
    """The split that the lists of a COCO-format file describe; `file` is what messages call it.

    Raises:
        DataError: as in `load_split`.
    """
    images, boxes, categories = lists["images"], lists["annotations"], lists["categories"]
    image_ids = _unique(images, images.image_ids("id"))
    category_ids = _unique(categories, categories.integers("id"))
    of_image = _positions(boxes, "image_id", boxes.image_ids("image_id"), image_ids, listed_in="images")
    of_category = _positions(boxes, "category_id", boxes.integers("category_id"), category_ids, listed_in="categories")
    xywh = boxes.boxes("bbox")
    sizes = np.stack([images.integers("height", low=1), images.integers("width", low=1)], axis=1)
    is_empty = _are_empty(xywh, sizes[of_image])
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that the checks refuse
        area = xywh[:, 2] * xywh[:, 3]
    by_image = np.argsort(of_image, kind="stable")
    by_image = by_image[~is_empty[by_image]]
    split = Split(
        image_dir=Path(image_dir),
        annotation_file=file,
        image_ids=image_ids,
        file_names=np.array(images.texts("file_name")),
        sizes=sizes,
        first_box=np.searchsorted(of_image[by_image], np.arange(len(image_ids) + 1)),
        xywh=xywh[by_image],
        labels=category_ids[of_category[by_image]],
        area=boxes.numbers("area", default=area)[by_image],
        is_crowd=boxes.flags("iscrowd")[by_image],
        is_rotated=np.array([_is_rotated(row) for row in boxes.rows], dtype=bool)[by_image],
        num_empty=np.bincount(of_image[is_empty], minlength=len(image_ids)),
        names=dict(zip(category_ids.tolist(), categories.texts("name"), strict=True)),
    )
    return replace(split, notes=boxes.notes.texts())  # now that all columns are read


def _are_empty(xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[N]: whether a box has no width or no height in its image, of `sizes` [N, 2] (h, w), in single precision.

    Negative sides and boxes far from their image are mistakes of another kind, which `datasets.checks` refuses.
    """
    limits = sizes[:, [1, 0]]
    with np.errstate(over="ignore", invalid="ignore"):
        corners = xywh.astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        inside = np.minimum(corners.clip(min=0), np.tile(limits, 2))
        overhang = np.concatenate([-xywh[:, :2], xywh[:, :2] + xywh[:, 2:] - limits], axis=1)
    is_near = (overhang <= OVERHANG_TOLERANCE).all(axis=1) & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    is_valid = np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] >= 0).all(axis=1)
    return is_valid & (is_near | (xywh[:, 2:] == 0).any(axis=1))


def _is_rotated(row: dict[str, Any]) -> bool:
    """Whether CVAT states that a box was drawn rotated; half a turn gives the same box."""
    attributes = row.get("attributes")
    rotation = attributes.get("rotation") if isinstance(attributes, dict) else None
    return isinstance(rotation, int | float) and rotation % 180 != 0


def _unique(records: Records, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(ids):
        raise DataError(f"{records.file}: '{records.name}' is empty; a split needs at least one entry there")
    _, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if (counts > 1).any():
        repeated = first[counts > 1].tolist()
        raise DataError(
            f"{records.file}: {len(repeated)} ids occur more than once in '{records.name}', "
            f"first {first_few([records.rows[i]['id'] for i in repeated])}; give every entry an id of its own"
        )
    return ids


def _positions(
    boxes: Records, key: str, ids: NDArray[np.int64], known: NDArray[np.int64], listed_in: str
) -> NDArray[np.int64]:
    """Position in `known` of the ids that the boxes have as `key`. An unknown id is an error."""
    order = np.argsort(known)
    positions = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    is_unknown = known[positions] != ids
    if is_unknown.any():
        first = np.flatnonzero(is_unknown)[np.unique(ids[is_unknown], return_index=True)[1]]
        raise DataError(
            f"{boxes.file}: {is_unknown.sum()} of {len(ids)} annotations have a {key} that '{listed_in}' does not "
            f"list, first {first_few([boxes.rows[i][key] for i in first])}; list it there, or remove these annotations"
        )
    return positions
