"""Parts of other images on an image: mosaic, and the copying of lesions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.augment.transforms import crop_to, flip_horizontally
from datasets.dataset import Draws, Loaded
from util.detection.batch import Target
from util.detection.boxes import touches

CENTRE = (0.35, 0.65)  # where the four images of a mosaic meet, share of each side
MARGIN = 0.25  # what is copied around a lesion, share of its sides: there it fades out
SHIFT = 0.05  # how far a lesion may move, share of the image's sides
TRIES = 10

Place = tuple[float, float]  # share of what is left over at the left, at the top


@dataclass(frozen=True, eq=False)
class Mixer:
    """Mixes images in the epochs before `end_epoch`; those that follow see whole images.

    Args:
        donors: positions of the images with boxes.
        num_images: of the split.
        mosaic: probability that an image becomes a mosaic with three others.
        copy_paste: probability that an image gets the lesions of one other.
        end_epoch: first epoch without either.
    """

    donors: NDArray[np.int64]
    num_images: int
    mosaic: float
    copy_paste: float
    end_epoch: int

    def __call__(self, index: int, epoch: int, load: Callable[[int], Loaded], draws: Draws) -> Loaded:
        """The image at `index`, mixed at times."""
        image, target = load(index)
        if epoch >= self.end_epoch:
            return image, target
        rng = draws.of_step("copy_paste")
        if rng.random() < self.copy_paste and len(self.donors):
            donor = load(int(rng.choice(self.donors)))
            image, target = paste_lesions(image, target, *donor, rng)
        rng = draws.of_step("mosaic")
        if rng.random() < self.mosaic:
            others = [load(int(i)) for i in rng.integers(self.num_images, size=3)]
            parts = [[(image, target), *others][i] for i in rng.permutation(4)]
            places = [tuple(place) for place in rng.random((4, 2)).tolist()]
            mixed, found = make_mosaic(parts, image.size, tuple(rng.uniform(*CENTRE, size=2).tolist()), places)
            image = mixed
            target = {**target, **found}
        return image, target


def make_mosaic(
    parts: Sequence[Loaded], size: tuple[int, int], centre: tuple[float, float], places: Sequence[Place]
) -> Loaded:
    """Four images in one (Bochkovskiy et al., arXiv 2004.10934); the target has boxes and labels only.

    Each is made smaller or larger, in proportion, until it just covers its quarter; what hangs over is cut off.

    Args:
        parts: top left, top right, bottom left, bottom right.
        size: (width, height) of the result, pixels.
        centre: where they meet, share of width and height.
        places: which part of each image is kept.
    """
    width, height = size
    x = round(centre[0] * width)
    y = round(centre[1] * height)
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    is_grey = all(image.mode == "L" for image, _ in parts)
    mosaic = Image.new("L" if is_grey else "RGB", size)
    boxes = []
    labels = []
    for part, (left, top, right, bottom), place in zip(parts, quarters, places, strict=True):
        image, target = _cover(*part, right - left, bottom - top, place)
        mosaic.paste(image, (left, top))
        boxes.append(target["boxes"] + torch.tensor([left, top, left, top]))
        labels.append(target["labels"])
    return mosaic, {"boxes": torch.cat(boxes), "labels": torch.cat(labels)}


def paste_lesions(
    image: Image.Image, target: Target, donor: Image.Image, found: Target, rng: np.random.Generator
) -> Loaded:
    """Each lesion of the donor that finds a place without another box (after Ghiasi et al., arXiv 2012.07177).

    The donor is mirrored half of the time. A lesion keeps its place in the chest, up to a small shift, and its size as
    a share of the image.
    """
    if rng.random() < 0.5:
        donor, found = flip_horizontally(donor, found)
    ratio = torch.tensor([image.width / donor.width, image.height / donor.height] * 2)
    for box, label in zip(found["boxes"], found["labels"], strict=True):
        place = draw_place((box * ratio).tolist(), image.size, target["boxes"], rng)
        if place is None:
            continue
        image = paste_lesion(image, place, donor, box.tolist())
        boxes = torch.cat([target["boxes"], torch.tensor([place])])
        target = {**target, "boxes": boxes, "labels": torch.cat([target["labels"], label[None]])}
    return image, target


def draw_place(
    box: Sequence[float], size: tuple[int, int], taken: Tensor, rng: np.random.Generator
) -> Sequence[float] | None:
    """The box moved a little, inside an image of (width, height) and off the boxes taken; None if no try succeeds."""
    x1, y1, x2, y2 = box
    low = np.array([-x1, -y1])
    high = np.array([size[0] - x2, size[1] - y2])
    for _ in range(TRIES):
        right, down = (rng.uniform(-SHIFT, SHIFT, size=2) * size).clip(low, high).tolist()
        place = [x1 + right, y1 + down, x2 + right, y2 + down]
        if not touches(place, taken):
            return place
    return None


def paste_lesion(image: Image.Image, place: Sequence[float], donor: Image.Image, box: Sequence[float]) -> Image.Image:
    """What the donor shows in `box`, on the image in `place`.

    Inside the ellipse of the box it is the donor's, from there to the margin it fades out. Its brightness is shifted so
    that donor and image agree along the rim, where else an edge would give the lesion away.
    """
    scale = [(box[i + 2] - box[i]) / (place[i + 2] - place[i]) for i in (0, 1)]
    left, top, right, bottom = patch = _patch(place, image.size, box, donor.size, scale)
    frame = [box[i % 2] + (patch[i] - place[i % 2]) * scale[i % 2] for i in range(4)]
    frame = np.clip(frame, 0, [*donor.size, *donor.size]).tolist()  # rounding may lead a fraction of a pixel outside
    source = donor.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=frame)
    # Grey is mixed as three channels, too: rounding, and so the pixels, must not depend on how an image is kept.
    ours, theirs = (np.asarray(part.convert("RGB")).astype(np.float32) for part in (image.crop(patch), source))
    weight, rim = _weights(place, patch)
    theirs = theirs + ((ours - theirs) * rim).sum(axis=(0, 1)) / rim.sum()
    mixed = (ours + weight * (theirs - ours)).round().clip(0, 255).astype(np.uint8)
    pasted = image.copy() if image.mode == donor.mode else image.convert("RGB")
    pasted.paste(Image.fromarray(mixed).convert(pasted.mode), (left, top))
    return pasted


def _cover(image: Image.Image, target: Target, width: int, height: int, place: Place) -> Loaded:
    ratio = max(width / image.width, height / image.height)
    size = max(width, round(image.width * ratio)), max(height, round(image.height * ratio))
    ratios = torch.tensor([size[0] / image.width, size[1] / image.height] * 2)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left = round(place[0] * (size[0] - width))
    top = round(place[1] * (size[1] - height))
    return crop_to(resized, {**target, "boxes": target["boxes"] * ratios}, top, left, height, width)


def _patch(
    place: Sequence[float], size: tuple[int, int], box: Sequence[float], donor: tuple[int, int], scale: Sequence[float]
) -> tuple[int, int, int, int]:
    """`place` with its margin in whole pixels: as far as the image and the donor reach."""
    edges = []
    for i in (0, 1):
        margin = MARGIN * (place[i + 2] - place[i])
        before = min(margin, place[i], box[i] / scale[i])
        after = min(margin, size[i] - place[i + 2], (donor[i] - box[i + 2]) / scale[i])
        edges.append((max(0, floor(place[i] - before)), min(size[i], ceil(place[i + 2] + after))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _weights(
    place: Sequence[float], patch: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[h, w, 1] each: how much of the donor a pixel gets, and which pixels lie on the rim where it fades out.

    1 in the ellipse that fills `place`, falling as a cosine to 0 in one that is larger by the margin.
    """
    x = (np.arange(patch[0], patch[2], dtype=np.float32) + 0.5 - (place[0] + place[2]) / 2) * 2 / (place[2] - place[0])
    y = (np.arange(patch[1], patch[3], dtype=np.float32) + 0.5 - (place[1] + place[3]) / 2) * 2 / (place[3] - place[1])
    distance = np.hypot(x[None, :], y[:, None])[..., None]
    way = ((distance - 1) / (2 * MARGIN)).clip(0, 1)
    weight = (1 + np.cos(np.pi * way)) / 2
    rim = ((way > 0) & (way < 1)).astype(np.float32)
    return weight.astype(np.float32), rim if rim.any() else np.ones_like(rim)
