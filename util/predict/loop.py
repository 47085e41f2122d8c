"""The prediction loop: read ahead in threads, detect in batches of one size, draw in threads, store each result.

A bounded number of images is in memory, however many there are. An image that cannot be read, or on which the network
fails, is listed, and the loop continues.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from PIL import Image

from util.base.files import write_atomically
from util.base.text import short_names
from util.base.threads import threads
from util.detection.batch import Sample
from util.detection.fusion import ImageDetections
from util.images import huge_images_in_turn
from util.predict.batch_size import bytes_taken, choose_batch_size
from util.predict.detect_each import FAILURES, FOR_ALL, Failure, ImageDetector, TolerantDetector, reason_of
from util.predict.outputs import PICTURES_FOLDER, Draw, OutputSettings
from util.predict.picture import THUMBNAIL, draw_picture, draw_thumbnail, fitted
from util.predict.results import ImageResult, ResultFile, boxes_above, make_result

MOST_WAITING = 4  # batches of images that wait for others of their size
In = TypeVar("In")
Out = TypeVar("Out")


class Readable(Protocol):
    """An image that can be read."""

    @property
    def name(self) -> str:
        """A unique path with slashes."""

    @property
    def stamp(self) -> tuple[int, int]:
        """Two numbers that change with the content of the file."""

    def read(self) -> Image.Image:
        """The RGB image."""


@dataclass(frozen=True)
class _Read:
    """An image that has been read."""

    name: str
    stamp: tuple[int, int]
    size: tuple[int, int]  # (h, w) pixels of the file
    shown: Image.Image  # resized for drawing
    prepared: tuple[Sample, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the network input; images that share it can share a forward pass."""
        return tuple(side for sample in self.prepared for side in sample.image.shape)

    @property
    def num_values(self) -> int:
        """Numbers in the network input, of the largest view."""
        return max(sample.image.numel() for sample in self.prepared)


def detect_all(
    detector: ImageDetector,
    images: Sequence[Readable],
    results: ResultFile,
    output: OutputSettings,
    *,
    device: torch.device,
    batch_size: int | None,
    num_threads: int,
    after_images: Callable[[int], None],
) -> list[tuple[str, str]]:
    """Detect on images and add each result once its image with boxes is on the disk; (name, reason) of failures.

    Args:
        detector: what detects.
        images: the images.
        results: the file that gets the results.
        output: how images with boxes are drawn, and where.
        device: of the detector; its memory decides the batch size.
        batch_size: images at once; None measures with the first one how many fit.
        num_threads: that read and draw.
        after_images: called with the number of images that are done since the last call.

    Raises:
        MissingPackage: an image needs a package that is not installed.
        WriteError: the disk is full or the folder cannot be written.
        Exception: what the network raises, where it fails on every image or does not work any more.
    """
    outcomes = _Outcomes(results, after_images)
    drawing: deque[list[Future[ImageResult | tuple[str, Failure]]]] = deque()

    def collect(at_most: int) -> None:
        while len(drawing) > at_most:
            outcomes.add([future.result() for future in drawing.popleft()])

    with threads(num_threads) as readers, threads(num_threads) as painters:
        ahead = 2 * num_threads + (batch_size or 0)
        reads = map_ahead(readers, lambda image: _read(image, detector, output.draw), images, ahead)
        network = TolerantDetector(detector)
        for batch in _batches(outcomes.readable(reads), network, device, batch_size):
            detections = network.detect([read.prepared for read in batch])
            drawing.append([painters.submit(_finish, *one, output) for one in zip(batch, detections, strict=True)])
            collect(at_most=1)
        collect(at_most=0)
    if outcomes.error and not len(results):
        raise outcomes.error
    return outcomes.failed


class _Outcomes:
    """Stores the result of each image, or notes its failure."""

    def __init__(self, results: ResultFile, after_images: Callable[[int], None]) -> None:
        self.failed: list[tuple[str, str]] = []  # name, reason
        self.error: Exception | None = None  # the first one, while every image may fail
        self._results = results
        self._after_images = after_images

    def add(self, outcomes: Sequence[ImageResult | tuple[str, Failure]]) -> None:
        done = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
        self._results.add(done)
        self._after_images(len(done))
        for outcome in outcomes:
            if not isinstance(outcome, ImageResult):
                self._fail(*outcome)

    def readable(self, reads: Iterable[_Read | tuple[str, Failure]]) -> Iterator[_Read]:
        """The images that could be read; of the others the failure is noted."""
        for read in reads:
            if isinstance(read, _Read):
                yield read
            else:
                self._fail(*read)

    def _fail(self, name: str, failure: Failure) -> None:
        self.failed.append((name, failure.reason))
        # An error keeps its image in memory, so that of a single image is dropped.
        self.error = None if len(self._results) else self.error or failure.error
        self._after_images(1)


def map_ahead(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """Apply `work` to each item, in order, by a pool that is at most `ahead` items in advance."""
    queue: deque[Future[Out]] = deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _read(source: Readable, detector: ImageDetector, draw: Draw) -> _Read | tuple[str, Failure]:
    is_read = False
    with huge_images_in_turn():
        try:
            stamp = source.stamp
            image = source.read()
            is_read = True
            shown = image.copy() if draw == "none" else fitted(image)
            if draw == "none":
                shown.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL), reducing_gap=2.0)
            return _Read(source.name, stamp, (image.height, image.width), shown, detector.prepare(image))
        except FOR_ALL:
            raise
        except FAILURES as error:
            return source.name, Failure(reason_of(error), error if is_read else None)


def _batches(
    reads: Iterable[_Read], network: TolerantDetector, device: torch.device, batch_size: int | None
) -> Iterator[list[_Read]]:
    """Group images of one size. When too many wait, the largest group goes incomplete."""
    groups: dict[tuple[int, ...], list[_Read]] = defaultdict(list)
    num_waiting = 0
    largest = batch_size or 1
    per_value = None
    for read in reads:
        if not batch_size and per_value is None:
            per_value = _bytes_per_value(network, read, device)
        size = batch_size or choose_batch_size(device, int((per_value or 0) * read.num_values))
        largest = max(largest, size)
        groups[read.shape].append(read)
        num_waiting += 1
        full = read.shape if len(groups[read.shape]) >= size else None
        if full is None and num_waiting >= MOST_WAITING * largest:
            full = max(groups, key=lambda shape: len(groups[shape]))
        if full is not None:
            num_waiting -= len(groups[full])
            yield groups.pop(full)
    yield from groups.values()


def _bytes_per_value(network: TolerantDetector, read: _Read, device: torch.device) -> float | None:
    """Memory that detection takes per number of an image; 0 where it cannot be measured, None if detection fails."""
    (first,) = network.detect([read.prepared])  # the first call allocates memory that stays
    if isinstance(first, Failure):
        return None
    taken = bytes_taken(device, lambda: network.detect([read.prepared]))
    return (taken or 0) / read.num_values


def _finish(
    read: _Read, detections: ImageDetections | Failure, output: OutputSettings
) -> ImageResult | tuple[str, Failure]:
    """The result of an image, drawn."""
    if isinstance(detections, Failure):
        return read.name, detections
    try:
        return _draw(read, make_result(read.name, read.stamp, read.size, detections), output)
    except FOR_ALL:
        raise
    except FAILURES as error:
        return read.name, Failure(reason_of(error), error)


def _draw(read: _Read, result: ImageResult, output: OutputSettings) -> ImageResult:
    boxes, labels, scores = boxes_above(result, output.threshold)
    result = replace(result, thumbnail=draw_thumbnail(read.shown, boxes, labels, output.names, read.size))
    if output.draw == "none" or (output.draw == "positives" and not scores):
        return result
    score = "none" if result.score is None else f"{result.score:.2f}"
    caption = f"{read.name}: {output.score_label} {score}, {len(scores)} boxes from {output.threshold:.3g} on"
    names = short_names(output.names)
    picture = draw_picture(read.shown, boxes, labels, scores, names=names, size=read.size, caption=caption)
    path = f"{PICTURES_FOLDER}/{read.name}.png"  # with the ending of the file: x.png and x.jpg are two images
    write_atomically(output.folder / path, lambda file: picture.save(file, "PNG", compress_level=3))
    return replace(result, picture=path)
