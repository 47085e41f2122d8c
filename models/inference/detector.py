"""A trained network, ready for use: image files to detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.dino import DINO
from models.postprocess import PostProcess
from util.base.console import print_note
from util.base.errors import DataError, MissingPackage
from util.detection.batch import Batch, Sample, collate
from util.detection.fusion import ImageDetections, Merge
from util.detection.pixels import network_pixels, resized_size
from util.images import UNREADABLE, convert_image, to_image
from util.images.depth import CONTAINER, ReadingRules
from util.images.reader import read_with_facts
from util.metrics.collect import collect_detections
from util.metrics.tables import Detections
from util.training.precision import Precision

# An input of a detector: a file, an image of Pillow's, or 8-bit pixels, grey [h, w] or red, green, blue [h, w, 3]
ImageLike = str | Path | Image.Image | NDArray[np.uint8]
# One forward pass -> the detections of each image in pixels of its file
Network = Callable[[Batch], list[ImageDetections]]
# The input of each view of a detector for one image
Prepared = tuple[Sample, ...]


class TrainedNetwork:
    """The network of a checkpoint as a `Network`: it computes what an evaluation in training computes.

    Args:
        model: images [B, 3, H, W] and their mask to outputs.
        postprocess: outputs and targets to detections per image.
        precision: of the forward pass.
        device: where both are.
    """

    def __init__(self, model: DINO, postprocess: PostProcess, precision: Precision, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.postprocess = postprocess.to(device)
        self.precision = precision
        self.device = device

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> list[ImageDetections]:
        """`scores`, `labels` and `boxes` of each image, on the CPU; see `models.postprocess`."""
        moved = batch.to(self.device)
        with self.precision.autocast():
            outputs = self.model(moved.images, moved.mask, only_last=True)
        return [
            {name: column.cpu() for name, column in image.items()} for image in self.postprocess(outputs, moved.targets)
        ]


@dataclass(frozen=True)
class View:
    """A network with one test-time augmentation: the scale of its input, and mirroring."""

    network: Network
    scale: int  # the shorter side, pixels
    max_size: int  # the longer side at most, pixels
    is_flipped: bool = False  # left and right exchanged

    def prepare(self, image: Image.Image) -> Sample:
        """The network's input for a grey or RGB image."""
        size = resized_size(image.width, image.height, self.scale, self.max_size)
        pixels = network_pixels(image.resize(size, Image.Resampling.BILINEAR))
        target = {"orig_size": torch.tensor([image.height, image.width]), "image_id": torch.tensor(0)}
        return Sample(pixels.flip(-1) if self.is_flipped else pixels, target)

    def detect(self, samples: Sequence[Sample]) -> list[ImageDetections]:
        """The detections of each image; boxes in pixels of its file, with the mirroring undone."""
        detections = self.network(collate(samples))
        if not self.is_flipped:
            return detections
        return [self._mirrored(image, sample) for image, sample in zip(detections, samples, strict=True)]

    @staticmethod
    def _mirrored(detections: ImageDetections, sample: Sample) -> ImageDetections:
        left, top, right, bottom = detections["boxes"].unbind(dim=1)
        width = sample.target["orig_size"][1]
        return {**detections, "boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}


class Detector:
    """Images to detections, by one view or by an ensemble of views whose detections are fused.

        detector = load_detector("logs/RUN/best.pth")
        detections = detector("x.png")
        for label, score, box in zip(detections.label, detections.score, detections.xyxy):
            print(detector.names[label], score, box)

    Args:
        views: networks and test-time augmentations; at least one.
        merge: fuses the detections of several views.
        names: of the categories, by id.
        threshold: score threshold of the operating point; None where none was chosen.
        image_depth: bits that the samples of 16-bit files use; None: each file as its header or its values say.
        usual_depth: bits in the training of the network, which count before the values of a file; None: not known.
    """

    def __init__(
        self,
        views: Sequence[View],
        merge: Merge,
        *,
        names: Mapping[int, str],
        threshold: float | None,
        image_depth: int | None = None,
        usual_depth: int | None = None,
    ) -> None:
        self.views = tuple(views)
        self.merge = merge
        self.names = dict(names)
        self.threshold = threshold
        self.rules = ReadingRules(image_depth, usual=usual_depth)
        self._has_noted = False  # that the depth of a file is a guess

    def __call__(self, *images: ImageLike) -> Detections:
        """Detect on some images, which get the ids 1, 2, ...; boxes in pixels of the files.

        Detections below the operating point are included: filter by `detections.score >= detector.threshold`.

        Raises:
            DataError: a file is missing, damaged, or no image; MissingPackage where reading it takes a package.
        """
        detections = [self.detect([self.prepare(self._opened(image))])[0] for image in images]
        return collect_detections(range(1, len(images) + 1), detections)

    def prepare(self, image: Image.Image) -> Prepared:
        """The input of each view for an image: work for the CPU, safe in any thread."""
        return tuple(view.prepare(image) for view in self.views)

    def detect(self, images: Sequence[Prepared]) -> list[ImageDetections]:
        """The detections of each image by descending score.

        In a batch of one size each image gives exactly what it gives alone; otherwise images are padded to the
        largest, which changes scores and boxes slightly (docs/architecture.md).
        """
        by_view = [view.detect(samples) for view, samples in zip(self.views, zip(*images, strict=True), strict=True)]
        if len(by_view) == 1:
            return by_view[0]
        return [self.merge(detections) for detections in zip(*by_view, strict=True)]

    def _opened(self, image: ImageLike) -> Image.Image:
        """The image of a file, of Pillow or of an array."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
                raise DataError(
                    f"an array of {image.dtype} {list(image.shape)} is not an image; give 8-bit pixels, [h, w] or "
                    "[h, w, 3]"
                )
            return to_image(np.ascontiguousarray(image))
        try:
            return convert_image(image, self.rules) if isinstance(image, Image.Image) else self._read(Path(image))
        except MissingPackage:
            raise
        except UNREADABLE as error:
            raise DataError(
                f"{image}: cannot be read as an image ({error}); give a PNG, JPEG, TIFF or DICOM file"
            ) from error

    def _read(self, path: Path) -> Image.Image:
        reading = read_with_facts(path, self.rules)
        samples = reading.samples
        depth = samples.alone(self.rules.usual) if samples and not (samples.stated or self.rules.depth) else CONTAINER
        if samples and depth not in (CONTAINER, self.rules.usual) and not self._has_noted:
            self._has_noted = True
            print_note(
                f"{path}: its 16-bit samples are read as {depth} bits, by their highest value {samples.highest}, "
                "and others likewise, each by itself; image_depth=BITS sets one depth for all"
            )
        return reading.image
