"""From many images to rows: read ahead in threads, detect in batches of one size, draw in threads, keep each row.

At any time a bounded number of images is in memory, however many there are. An image that cannot be read is noted, and
the rest goes on.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from PIL import Image

from util.batch import Sample
from util.errors import MissingPackage, UserError
from util.files import write_whole
from util.free_memory import bytes_taken, choose_batch_size
from util.fusion import Found
from util.images import UNREADABLE
from util.logger import remark
from util.marked_picture import THUMBNAIL, draw_picture, draw_thumbnail, fitted
from util.pictures import short_names
from util.prediction_rows import Row, RowFile, corners_from, row_of

PICTURES = "pictures"
MOST_WAITING = 4  # batches of images that wait for others of their size
Draw = Literal["none", "positives", "all"]
In, Out = TypeVar("In"), TypeVar("Out")


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


class Detects(Protocol):
    """What turns images into detections: `models.detector.Detector`, or anything else that keeps to this."""

    def prepare(self, image: Image.Image) -> tuple[Sample, ...]:
        """An RGB image as the network gets it, once per view."""

    def detect(self, images: Sequence[tuple[Sample, ...]]) -> list[Found]:
        """The detections on each image, strongest first, boxes in pixels of the file."""


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
    """Detect on images and add their rows, each once its picture is on the disk; (name, reason) of the unreadable.

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
    """
    troubles: list[tuple[str, str]] = []
    waiting: deque[list[Future[Row]]] = deque()

    def keep(at_most: int) -> None:
        while len(waiting) > at_most:
            done = [future.result() for future in waiting.popleft()]
            rows.add(done)
            after_images(len(done))

    def readable(answers: Iterable[_Read | tuple[str, str]]) -> Iterator[_Read]:
        for answer in answers:
            if isinstance(answer, _Read):
                yield answer
            else:
                troubles.append(answer)
                after_images(1)

    with ThreadPoolExecutor(num_threads) as readers, ThreadPoolExecutor(num_threads) as painters:
        ahead = 2 * num_threads + (batch_size or 0)
        answers = map_ahead(readers, lambda source: _read(source, detector, album.draw), sources, ahead)
        for batch in _batches(readable(answers), detector, device, batch_size):
            found = _detect(detector, batch)
            waiting.append([painters.submit(_finish, *one, album) for one in zip(batch, found, strict=True)])
            keep(at_most=1)
        keep(at_most=0)
    return troubles


def map_ahead(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """`work` on each item in the order of the items, done by a pool for at most `ahead` items in advance."""
    queue: deque[Future[Out]] = deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _read(source: Readable, detector: Detects, draw: Draw) -> _Read | tuple[str, str]:
    try:
        stamp, image = source.stamp, source.read()
    except MissingPackage:
        raise
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        return source.name, _reason(error)
    shown = image.copy() if draw == "none" else fitted(image)
    if draw == "none":
        shown.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL), reducing_gap=2.0)
    return _Read(source.name, stamp, (image.height, image.width), shown, detector.prepare(image))


def _reason(error: BaseException) -> str:
    """Why, in a line, without paths that are told already."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "is no image of a known kind, or empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__


def _batches(
    reads: Iterable[_Read], detector: Detects, device: torch.device, batch_size: int | None
) -> Iterator[list[_Read]]:
    """Images of one size together. Where too many wait for company, the largest group goes as it is."""
    groups: dict[tuple[int, ...], list[_Read]] = defaultdict(list)
    num_waiting, largest, per_value = 0, batch_size or 1, None
    for read in reads:
        if not batch_size and per_value is None:
            per_value = _bytes_per_value(detector, read, device)
        size = batch_size or choose_batch_size(device, int(per_value * read.num_values))
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


def _bytes_per_value(detector: Detects, read: _Read, device: torch.device) -> float:
    """Memory that the detection takes for each number of an image; 0 where it cannot be measured."""
    _detect(detector, [read])  # the first time some memory is taken for good
    taken = bytes_taken(device, lambda: _detect(detector, [read]))
    return (taken or 0) / read.num_values


def _detect(detector: Detects, batch: Sequence[_Read]) -> list[Found]:
    """The detections on a batch; one that does not fit into the memory of the GPU goes in halves."""
    try:
        return detector.detect([read.prepared for read in batch])
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise UserError(
                f"{batch[0].name}: does not fit into the memory of the GPU, alone; choose --device cpu, or look at it "
                "with a smaller --options data_eval_scale or --scales"
            ) from error
    remark(f"{len(batch)} images at once do not fit into the memory of the GPU; they go in halves")
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return _detect(detector, batch[:half]) + _detect(detector, batch[half:])


def _finish(read: _Read, found: Found, album: Album) -> Row:
    """The row of an image, its picture drawn."""
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
