"""Flip, resize and crop (image, target), and the pipelines of training and evaluation.

Until the last step an image is a PIL image, of mode L where it is grey and else RGB, and the boxes of its target are
[n, 4] xyxy in its pixels. Grey or not, the pixels are the same: Pillow treats each channel of RGB as it treats L.
The rules are those of DETR and DINO, to the pixel. COCO's "area" is not carried along: no loss reads it, and the
metrics take it from the annotation file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.dataset import Generators, LabelledImage
from util.detection.batch import Target
from util.detection.boxes import xyxy_to_cxcywh
from util.detection.pixels import network_pixels, resized_size

# Limit of the resize before a crop: without it a strip of 1000 : 1 would take gigabytes.
LONGEST_BEFORE_CROP = 65_536

# (image, target with boxes in its pixels, generators of the image) -> the same, changed
Step = Callable[[Image.Image, Target, Generators], LabelledImage]


@dataclass(frozen=True)
class TrainTransform:
    """Augmentation: a random flip; then one resize or, at random, a resize, a crop and another resize.

    With `square` the last resize is the same for every image of an optimizer step: its scale is drawn from the
    window's generator, and the image becomes exactly scale x scale. A crop is square then, so that its content keeps
    its proportions; an image that is not square itself is stretched wherever it is not cropped.

    Args:
        flip: probability of a horizontal flip.
        crop: probability of resize, crop, resize.
        scales: shorter sides to choose from, pixels.
        max_size: longest side allowed, pixels; without effect on squares.
        resize_before_crop: shorter sides to choose from before a crop, pixels; the longest side there is
            LONGEST_BEFORE_CROP.
        crop_range: smallest and largest side of a crop, pixels.
        square: one square per window instead of a size per image (official).
        before: steps on the image as it is in its file.
        after: steps on the image in its final size.
    """

    flip: float
    crop: float
    scales: Sequence[int]
    max_size: int
    resize_before_crop: Sequence[int]
    crop_range: tuple[int, int]
    square: bool
    before: Sequence[Step] = ()
    after: Sequence[Step] = ()

    def __call__(self, image: Image.Image, target: Target, rngs: Generators) -> tuple[Tensor, Target]:
        """Augment one image; see `to_tensors`."""
        for step in (*self.before, self._flip_crop_resize, *self.after):
            image, target = step(image, target, rngs)
        return to_tensors(image, target)

    def _flip_crop_resize(self, image: Image.Image, target: Target, rngs: Generators) -> LabelledImage:
        rng = rngs.image
        if rng.random() < self.flip:
            image, target = flip_horizontally(image, target)
        if rng.random() < self.crop:
            image, target = resize(image, target, _choose(self.resize_before_crop, rng), LONGEST_BEFORE_CROP)
            draw = draw_square_crop if self.square else draw_crop
            image, target = crop_to(image, target, *draw(image.width, image.height, self.crop_range, rng))
        if self.square:
            return resize_to_square(image, target, _choose(self.scales, rngs.window))
        return resize(image, target, _choose(self.scales, rng), self.max_size)


@dataclass(frozen=True)
class EvalTransform:
    """One resize to the shorter side `scale`, the longer one at most `max_size`. Nothing is random."""

    scale: int
    max_size: int

    def __call__(self, image: Image.Image, target: Target, _rngs: Generators) -> tuple[Tensor, Target]:
        """Resize one image; see `to_tensors`."""
        return to_tensors(*resize(image, target, self.scale, self.max_size))


def flip_horizontally(image: Image.Image, target: Target) -> LabelledImage:
    """Exchange left and right."""
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    boxes = torch.stack([image.width - right, top, image.width - left, bottom], dim=1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {**target, "boxes": boxes}


def resize(image: Image.Image, target: Target, size: int, max_size: int | None = None) -> LabelledImage:
    """Resize bilinearly to `resized_size`; boxes follow the rounded ratios."""
    width, height = resized_size(image.width, image.height, size, max_size)
    ratios = torch.tensor([width / image.width, height / image.height] * 2)
    return image.resize((width, height), Image.Resampling.BILINEAR), {**target, "boxes": target["boxes"] * ratios}


def resize_to_square(image: Image.Image, target: Target, size: int) -> LabelledImage:
    """Resize bilinearly to exactly `size` x `size`: an image that is not square is stretched, with its boxes."""
    ratios = torch.tensor([size / image.width, size / image.height] * 2)
    return image.resize((size, size), Image.Resampling.BILINEAR), {**target, "boxes": target["boxes"] * ratios}


def draw_crop(
    width: int, height: int, crop_range: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop: sides uniform in `crop_range`, position uniform in the image."""
    crop_width = _draw_side(width, crop_range, rng)
    crop_height = _draw_side(height, crop_range, rng)
    return *_draw_place(width - crop_width, height - crop_height, rng), crop_height, crop_width


def draw_square_crop(
    width: int, height: int, crop_range: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, side, side) of a square crop, otherwise as `draw_crop`."""
    side = _draw_side(min(width, height), crop_range, rng)
    return *_draw_place(width - side, height - side, rng), side, side


def _draw_side(side: int, crop_range: tuple[int, int], rng: np.random.Generator) -> int:
    # A side below the range is kept whole.
    low = min(crop_range[0], side)
    high = min(crop_range[1], side)
    return int(rng.integers(low, high, endpoint=True))


def _draw_place(spare_width: int, spare_height: int, rng: np.random.Generator) -> tuple[int, int]:
    top = int(rng.integers(0, spare_height, endpoint=True))
    left = int(rng.integers(0, spare_width, endpoint=True))
    return top, left


def crop_to(image: Image.Image, target: Target, top: int, left: int, height: int, width: int) -> LabelledImage:
    """Crop the image. Boxes are shifted and clipped; those outside are dropped, even if none is left."""
    shifted = {**target, "boxes": target["boxes"] - torch.tensor([left, top, left, top])}
    return image.crop((left, top, left + width, top + height)), clip_boxes(shifted, width, height)


def clip_boxes(target: Target, width: int, height: int) -> Target:
    """Clip boxes to an image of that size; those without area are dropped."""
    boxes = torch.minimum(target["boxes"].clamp(min=0), torch.tensor([width, height, width, height]))
    is_left = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {**target, "boxes": boxes[is_left], "labels": target["labels"][is_left]}


def to_tensors(image: Image.Image, target: Target) -> tuple[Tensor, Target]:
    """Convert to pixels [1 or 3, h, w] 8-bit and boxes [n, 4] cxcywh in [0, 1]; `size` (h, w) is added."""
    boxes = xyxy_to_cxcywh(target["boxes"]) / torch.tensor([image.width, image.height] * 2)
    return network_pixels(image), {**target, "boxes": boxes, "size": torch.tensor([image.height, image.width])}


def _choose(sizes: Sequence[int], rng: np.random.Generator) -> int:
    return sizes[int(rng.integers(len(sizes)))]
