"""The data set: images and boxes of a split, one by one, as the network gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.annotations.split import Split
from util.base.errors import DataError, MissingPackage
from util.base.seed import derive_rng, derive_seed
from util.detection.batch import Sample, SampleKey, Target
from util.images import UNREADABLE, read_facts, read_image
from util.images.orientation import RECORDED_TURNED, is_recorded_turned


@dataclass(frozen=True, eq=False)
class Generators:
    """Random generators of one image. They are new for every image, so that nothing depends on the order of calls."""

    image: np.random.Generator  # the image's own, in this epoch
    window: np.random.Generator  # the same for all images of an optimizer step, for what they have in common
    name: tuple[int | str, ...]  # of the image's own generator

    def of_step(self, step: str) -> np.random.Generator:
        """The image's generator for one augmentation: switching it on changes no draw of the others."""
        return derive_rng(*self.name, step)


LabelledImage = tuple[Image.Image, Target]  # image of mode L or RGB; target with boxes [n, 4] xyxy in its pixels
# (image, target, rngs) -> what the network gets; see datasets.augment.transforms
Transform = Callable[[Image.Image, Target, Generators], tuple[Tensor, Target]]
# (position in the split, epoch, how to load the image at a position, rngs) -> that image with parts of others
Mix = Callable[[int, int, Callable[[int], LabelledImage], Generators], LabelledImage]
# position in the split -> its image, of mode L where it is grey, else RGB
ImageLoader = Callable[[int], Image.Image]


class CocoDataset(Dataset[Sample]):
    """The images of a split with their boxes: loaded, mixed with other images where `mix` is given, transformed.

    The augmentation of an image depends on (seed, epoch, image id), on its earlier occurrences in the epoch, and, where
    it is common to an optimizer step, on (seed, epoch, window): not on workers, ranks, or the order of calls.

    Args:
        images: loads the images from elsewhere than their files, such as a cache.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        *,
        seed: int,
        is_train: bool,
        mix: Mix | None = None,
        images: ImageLoader | None = None,
    ) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.is_train = is_train
        self.mix = mix
        self.load_image = images or partial(load_image, split)

    def __len__(self) -> int:
        return self.split.num_images

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """The image at a position; a bare position means epoch 0, window 0.

        Raises:
            DataError: the image file is missing, damaged, or not of the size that the annotation file states.
        """
        if not isinstance(key, SampleKey):
            key = SampleKey(epoch=0, window=0, position=int(key))
        epoch, window, index, is_ghost, repeat = key
        if not 0 <= index < len(self):
            raise IndexError(f"position {index} in a split of {len(self)} images")
        occurrence: tuple[int, ...] = (epoch, int(self.split.image_ids[index]), *([repeat] if repeat else []))
        name: tuple[int | str, ...] = (self.seed, "augment", *occurrence)
        rngs = Generators(image=derive_rng(*name), window=derive_rng(self.seed, "scale", epoch, window), name=name)
        loaded = self.mix(index, epoch, self._load, rngs) if self.mix else self._load(index)
        image, target = self.transform(*loaded, rngs)
        if self.is_train:
            target["noise_seed"] = torch.tensor(derive_seed(self.seed, "denoising", *occurrence))
        return Sample(image, target, is_ghost)

    def _load(self, index: int) -> LabelledImage:
        return self.load_image(index), load_target(self.split, index)


def load_image(split: Split, index: int) -> Image.Image:
    """Load the image at position `index` of the split: of mode L where it is grey, else RGB.

    Raises:
        DataError: the image file is missing, damaged, or not of the size that the annotation file states; or it is
            DICOM and a package to read it is missing.
    """
    path = split.path(index)
    record = f"image id {split.image_ids[index]} of {split.annotation_file}"
    try:
        image = read_image(path, split.rules)
    except MissingPackage:
        raise
    except UNREADABLE as error:
        fix = f"download the file again, or remove {record}"
        raise DataError(f"{path}: cannot be read as an image ({error}); {fix}") from error
    height, width = split.sizes[index].tolist()
    if image.size != (width, height):
        tag = read_facts(path).turn
        is_turned = is_recorded_turned((image.height, image.width), (height, width), tag)
        fix = (
            f"orientation tag {tag}; {RECORDED_TURNED}"
            if is_turned
            else "put the original image back, or correct the record"
        )
        raise DataError(
            f"{path}: has {image.width} x {image.height} pixels (width x height), but {record} states "
            f"{width} x {height}; the boxes would not fit: {fix}"
        )
    return image


def load_target(split: Split, index: int) -> Target:
    """Load the boxes of an image, [n, 4] xyxy in pixels of the file, with labels, image_id, orig_size.

    Here, and only here, category ids become class indices: the labels.

    As in the official conversion crowd regions are dropped, boxes are clipped to the image, and those without area are
    dropped.
    """
    rows = split.boxes_of(index)
    height, width = split.sizes[index].tolist()
    boxes, is_left = _clipped(split, rows, torch.tensor([[width, height]]))
    return {
        "boxes": boxes[is_left],
        "labels": torch.from_numpy(split.classes.to_index(split.labels[rows]))[is_left],
        "image_id": torch.tensor(int(split.image_ids[index])),
        "orig_size": torch.tensor([height, width]),
    }


def kept_boxes(split: Split) -> NDArray[np.bool_]:
    """[N]: whether `load_target` keeps a box."""
    sizes = torch.from_numpy(split.sizes[split.image_of_box]).flip(1)
    return _clipped(split, slice(None), sizes)[1].numpy()


def _clipped(split: Split, rows: slice, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [n, 4] xyxy clipped to `sizes` (width, height), [n, 2] or [1, 2], and which of them count [n]."""
    boxes = torch.from_numpy(split.xywh[rows]).float()
    boxes[:, 2:] += boxes[:, :2]
    boxes = torch.minimum(boxes.clamp(min=0), sizes.repeat(1, 2))
    is_left = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & ~torch.from_numpy(split.is_crowd[rows])
    return boxes, is_left
