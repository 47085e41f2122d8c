"""A trained network, ready for use: image files to detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from util.base.errors import DataError, MissingPackage
from util.detection.batch import Batch, Sample, collate
from util.detection.fusion import Found, Merge
from util.detection.pixels import network_pixels, resized_size
from util.images import UNREADABLE, convert_image, read_image, to_image
from util.metrics.collect import collect_detections
from util.metrics.tables import Detections
from util.training.precision import Precision

# What can be looked at: a file, an image of Pillow's, or 8-bit pixels, grey [h, w] or red, green, blue [h, w, 3]
Picture = str | Path | Image.Image | NDArray[np.uint8]
# One forward pass -> the detections of each image in pixels of its file. Any other engine that keeps to this will do.
Network = Callable[[Batch], list[Found]]
# An image as each view of a detector sees it
Prepared = tuple[Sample, ...]


class TrainedNetwork:
    """The network of a checkpoint as `Network`: computes what an evaluation in training computes.

    Args:
        model: images [B, 3, H, W] and their mask to outputs.
        postprocess: outputs and targets to detections per image.
        precision: of the forward pass.
        device: where both are.
    """

    def __init__(self, model: nn.Module, postprocess: nn.Module, precision: Precision, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.postprocess = postprocess.to(device)
        self.precision = precision
        self.device = device

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> list[Found]:
        """`scores`, `labels` and `boxes` of each image, on the CPU; see `models.postprocess`."""
        moved = batch.to(self.device)
        with self.precision.autocast():
            outputs = self.model(moved.images, moved.mask, only_last=True)
        return [
            {name: column.cpu() for name, column in image.items()} for image in self.postprocess(outputs, moved.targets)
        ]


@dataclass(frozen=True)
class View:
    """One way to look at an image."""

    network: Network
    scale: int  # the shorter side, pixels
    max_size: int  # the longer side at most, pixels
    is_flipped: bool = False  # left and right exchanged

    def prepare(self, image: Image.Image) -> Sample:
        """What the network gets of a grey or RGB image."""
        size = resized_size(image.width, image.height, self.scale, self.max_size)
        pixels = network_pixels(image.resize(size, Image.Resampling.BILINEAR))
        target = {"orig_size": torch.tensor([image.height, image.width]), "image_id": torch.tensor(0)}
        return Sample(pixels.flip(-1) if self.is_flipped else pixels, target)

    def detect(self, samples: Sequence[Sample]) -> list[Found]:
        """The detections on each image, as it is in its file."""
        found = self.network(collate(samples))
        if not self.is_flipped:
            return found
        return [self._mirrored(image, sample) for image, sample in zip(found, samples, strict=True)]

    @staticmethod
    def _mirrored(found: Found, sample: Sample) -> Found:
        left, top, right, bottom = found["boxes"].unbind(dim=1)
        width = sample.target["orig_size"][1]
        return {**found, "boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}


class Detector:
    """Images to detections, seen in one way, or in several whose detections are merged.

        detector = load_detector("logs/RUN/best.pth")
        found = detector("x.png")
        for label, score, box in zip(found.label, found.score, found.xyxy):
            print(detector.names[label], score, box)

    Args:
        views: the ways to look at an image; at least one.
        merge: makes the detections of several views one.
        names: of the categories, by id.
        threshold: the operating point, the score from which on a box counts; None where none was chosen.
    """

    def __init__(
        self, views: Sequence[View], merge: Merge, *, names: Mapping[int, str], threshold: float | None
    ) -> None:
        self.views = tuple(views)
        self.merge = merge
        self.names = dict(names)
        self.threshold = threshold

    def __call__(self, *images: Picture) -> Detections:
        """All detections on some images, which get the ids 1, 2, ...; boxes in pixels of the files.

        Nothing is left out: take `found.score >= detector.threshold` for the boxes that count.

        Raises:
            DataError: a file is missing, damaged, or no image; MissingPackage where reading it takes a package.
        """
        found = [self.detect([self.prepare(_opened(image))])[0] for image in images]
        return collect_detections(range(1, len(images) + 1), found)

    def prepare(self, image: Image.Image) -> Prepared:
        """An image as each view sees it: work for the CPU, which any thread may do."""
        return tuple(view.prepare(image) for view in self.views)

    def detect(self, images: Sequence[Prepared]) -> list[Found]:
        """The detections on each image, strongest first.

        Images of one size are exactly what they are alone; others are padded to the largest, which changes figures
        slightly (docs/architecture.md).
        """
        seen = [view.detect(samples) for view, samples in zip(self.views, zip(*images, strict=True), strict=True)]
        if len(seen) == 1:
            return seen[0]
        return [self.merge(answers) for answers in zip(*seen, strict=True)]


def _opened(image: Picture) -> Image.Image:
    """The RGB image that somebody means."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise DataError(
                f"an array of {image.dtype} {list(image.shape)} is no image; give 8-bit pixels, [h, w] or [h, w, 3]"
            )
        return to_image(np.ascontiguousarray(image))
    try:
        return convert_image(image) if isinstance(image, Image.Image) else read_image(Path(image))
    except MissingPackage:
        raise
    except UNREADABLE as error:
        raise DataError(
            f"{image}: cannot be read as an image ({error}); give a PNG, JPEG, TIFF or DICOM file"
        ) from error
