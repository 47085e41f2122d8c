"""From many images to rows: read ahead in threads, detect in batches of one size, draw in threads, keep each row.

At any time a bounded number of images is in memory, however many there are. An image that cannot be read, or on which
the network fails, is listed, and the rest goes on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from PIL import Image

from util.base.files import write_whole
from util.base.text import short_names
from util.base.threads import threads
from util.detection.batch import Sample
from util.detection.fusion import Found
from util.images import huge_images_in_turn
from util.predict.batch_size import bytes_taken, choose_batch_size
from util.predict.detect_each import FAILURES, FOR_ALL, Detects, EachDetector, Failure, reason_of
from util.predict.outputs import PICTURES
from util.predict.picture import THUMBNAIL, draw_picture, draw_thumbnail, fitted
from util.predict.rows import Row, RowFile, corners_from, row_of

MOST_WAITING = 4  # batches of images that wait for others of their size
Draw = Literal["none", "positives", "all"]
In = TypeVar("In")
Out = TypeVar("Out")


class Readable(Protocol):
    """An image that can be read."""

    @property
    def name(self) -> str:
        """Unlike those of all others; a path with slashes."""

    @property
    def stamp(self) -> tuple[int, int]:
        """Of the file: other content has another one."""

    def read(self) -> Image.Image:
        """The RGB image."""


@dataclass(frozen=True)
class Album:
    """What the pictures look like, and where they go."""

    folder: Path  # of the output
    draw: Draw
    names: Mapping[int, str]  # category id -> name
    threshold: float  # the score from which on a box counts


@dataclass(frozen=True)
class _Read:
    """An image that has been read."""

    name: str
    stamp: tuple[int, int]
    size: tuple[int, int]  # (h, w) pixels of the file
    shown: Image.Image  # in the size of a picture
    prepared: tuple[Sample, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the network gets; images that share it can share a forward pass."""
        return tuple(side for sample in self.prepared for side in sample.image.shape)

    @property
    def num_values(self) -> int:
        """Numbers that the network gets, of its largest view."""
        return max(sample.image.numel() for sample in self.prepared)


def predict_all(
    detector: Detects,
    sources: Sequence[Readable],
    rows: RowFile,
    album: Album,
    *,
    device: torch.device,
    batch_size: int | None,
    num_threads: int,
    after_images: Callable[[int], None],
) -> list[tuple[str, str]]:
    """Detect on images and add their rows, each once its picture is on the disk; (name, reason) of those that failed.

    Args:
        detector: what detects.
        sources: the images.
        rows: where to.
        album: of the pictures.
        device: of the detector; its memory decides the batch.
        batch_size: images at once; None measures with the first one how many fit.
        num_threads: that read and draw.
        after_images: is told how many more are done.

    Raises:
        MissingPackage: an image needs a package that is not installed.
        WriteError: the disk is full or the folder cannot be written.
        Exception: what the network raises, where it fails on every image or does not work any more.
    """
    kept = _Outcomes(rows, after_images)
    waiting: deque[list[Future[Row | tuple[str, Failure]]]] = deque()

    def keep(at_most: int) -> None:
        while len(waiting) > at_most:
            kept.add([future.result() for future in waiting.popleft()])

    with threads(num_threads) as readers, threads(num_threads) as painters:
        ahead = 2 * num_threads + (batch_size or 0)
        answers = map_ahead(readers, lambda source: _read(source, detector, album.draw), sources, ahead)
        network = EachDetector(detector)
        for batch in _batches(kept.readable(answers), network, device, batch_size):
            found = network.detect([read.prepared for read in batch])
            waiting.append([painters.submit(_finish, *one, album) for one in zip(batch, found, strict=True)])
            keep(at_most=1)
        keep(at_most=0)
    if kept.error and not len(rows):
        raise kept.error
    return kept.failed


class _Outcomes:
    """What became of each image: its row is kept, or its failure noted."""

    def __init__(self, rows: RowFile, after_images: Callable[[int], None]) -> None:
        self.failed: list[tuple[str, str]] = []  # name, reason
        self.error: Exception | None = None  # the first one, while it may be that of every image
        self._rows = rows
        self._after_images = after_images

    def add(self, outcomes: Sequence[Row | tuple[str, Failure]]) -> None:
        done = [outcome for outcome in outcomes if isinstance(outcome, Row)]
        self._rows.add(done)
        self._after_images(len(done))
        for outcome in outcomes:
            if not isinstance(outcome, Row):
                self._fail(*outcome)

    def readable(self, answers: Iterable[_Read | tuple[str, Failure]]) -> Iterator[_Read]:
        """The images that could be read; of the others the failure is noted."""
        for answer in answers:
            if isinstance(answer, _Read):
                yield answer
            else:
                self._fail(*answer)

    def _fail(self, name: str, failure: Failure) -> None:
        self.failed.append((name, failure.reason))
        # An error holds on to what was in memory then, so that of a single image is let go.
        self.error = None if len(self._rows) else self.error or failure.error
        self._after_images(1)


def map_ahead(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """`work` on each item in the order of the items, done by a pool for at most `ahead` items in advance."""
    queue: deque[Future[Out]] = deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _read(source: Readable, detector: Detects, draw: Draw) -> _Read | tuple[str, Failure]:
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
    reads: Iterable[_Read], network: EachDetector, device: torch.device, batch_size: int | None
) -> Iterator[list[_Read]]:
    """Images of one size together. Where too many wait for company, the largest group goes as it is."""
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


def _bytes_per_value(network: EachDetector, read: _Read, device: torch.device) -> float | None:
    """Memory that the detection takes for each number of an image; 0 where it cannot be measured, None if it fails."""
    found = network.detect([read.prepared])  # the first time some memory is taken for good
    if isinstance(found[0], Failure):
        return None
    taken = bytes_taken(device, lambda: network.detect([read.prepared]))
    return (taken or 0) / read.num_values


def _finish(read: _Read, found: Found | Failure, album: Album) -> Row | tuple[str, Failure]:
    """The row of an image, its picture drawn."""
    if isinstance(found, Failure):
        return read.name, found
    try:
        return _row(read, found, album)
    except FOR_ALL:
        raise
    except FAILURES as error:
        return read.name, Failure(reason_of(error), error)


def _row(read: _Read, found: Found, album: Album) -> Row:
    row = row_of(read.name, read.stamp, read.size, found)
    boxes, labels, scores = corners_from(row, album.threshold)
    thumbnail = draw_thumbnail(read.shown, boxes, labels, album.names, read.size)
    if album.draw == "none" or (album.draw == "positives" and not scores):
        return replace(row, thumbnail=thumbnail)
    told = "none" if row.score is None else f"{row.score:.2f}"
    caption = f"{read.name}: TB score {told}, {len(scores)} boxes from {album.threshold:.3g} on"
    picture = draw_picture(
        read.shown, boxes, labels, scores, names=short_names(album.names), size=read.size, caption=caption
    )
    place = f"{PICTURES}/{read.name}.png"  # with the ending of the file: x.png and x.jpg are two pictures
    write_whole(album.folder / place, lambda file: picture.save(file, "PNG", compress_level=3))
    return replace(row, picture=place, thumbnail=thumbnail)
