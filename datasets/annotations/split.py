"""Read a COCO-format file as columns of numbers, without torch: tools that only score need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.records import Records, read_records
from util.base.errors import DataError
from util.base.text import first_few
from util.images.depth import ALONE, ReadingRules
from util.metrics.tables import GroundTruth

COCO_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True, eq=False)
class Split:
    """The content of a COCO-format file: I images with N boxes.

    Columns of numbers rather than an object per box: loader processes share them with their parent instead of
    copying them page by page. Boxes are sorted by image, in the order of the file within an image.
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
    names: dict[int, str]  # category id -> name
    rules: ReadingRules = ALONE  # by which its image files are read

    @property
    def name(self) -> str:
        """The annotation file's name without its ending."""
        return self.annotation_file.stem

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
            xywh=self.xywh[rows],
            labels=self.labels[rows],
            area=self.area[rows],
            is_crowd=self.is_crowd[rows],
        )

    def ground_truth(self) -> GroundTruth:
        """The ground truth of the metrics: boxes [N, 4] xyxy as the file states them, neither clipped nor dropped."""
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

    A box without "area" gets width x height, one without "iscrowd" is no crowd.

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
    return dict(zip(_unique_ids(images).tolist(), images.texts("file_name"), strict=True))


def make_split(image_dir: Path | str, lists: dict[str, Records], file: Path) -> Split:
    """The split that the lists of a COCO-format file describe; `file` is what messages call it.

    Raises:
        DataError: as in `load_split`.
    """
    images, boxes, categories = lists["images"], lists["annotations"], lists["categories"]
    image_ids = _unique_ids(images)
    category_ids = _unique_ids(categories)
    of_image = _positions(boxes, "image_id", image_ids, listed_in="images")
    of_category = _positions(boxes, "category_id", category_ids, listed_in="categories")
    xywh = boxes.boxes("bbox")
    by_image = np.argsort(of_image, kind="stable")
    return Split(
        image_dir=Path(image_dir),
        annotation_file=file,
        image_ids=image_ids,
        file_names=np.array(images.texts("file_name")),
        sizes=np.stack([images.integers("height", low=1), images.integers("width", low=1)], axis=1),
        first_box=np.searchsorted(of_image[by_image], np.arange(len(image_ids) + 1)),
        xywh=xywh[by_image],
        labels=category_ids[of_category[by_image]],
        area=boxes.numbers("area", default=xywh[:, 2] * xywh[:, 3])[by_image],
        is_crowd=boxes.flags("iscrowd")[by_image],
        names=dict(zip(category_ids.tolist(), categories.texts("name"), strict=True)),
    )


def _unique_ids(records: Records) -> NDArray[np.int64]:
    ids = records.integers("id")
    if not len(ids):
        raise DataError(f"{records.file}: '{records.name}' is empty; a split needs at least one entry there")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = values[counts > 1]
        raise DataError(
            f"{records.file}: {len(repeated)} ids occur more than once in '{records.name}', "
            f"first {first_few(repeated.tolist())}; give every entry an id of its own"
        )
    return ids


def _positions(boxes: Records, key: str, known: NDArray[np.int64], listed_in: str) -> NDArray[np.int64]:
    """Position in `known` of the `key` of each box. An unknown id is an error."""
    ids = boxes.integers(key)
    order = np.argsort(known)
    positions = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    is_unknown = known[positions] != ids
    if is_unknown.any():
        raise DataError(
            f"{boxes.file}: {is_unknown.sum()} of {len(ids)} annotations have a {key} that '{listed_in}' does not "
            f"list, first {first_few(np.unique(ids[is_unknown]).tolist())}; list it there, or remove these annotations"
        )
    return positions
