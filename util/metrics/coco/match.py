"""Which detection finds which box by the rules of COCOeval, for one category and all its thresholds and sizes.

Equal to pycocotools to the last digit, and faster: images are worked on together, their detections in turns from the
strongest on, and only those that overlap a box come to their turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.overlap import overlap, to_xywh
from util.metrics.tables import Detections, GroundTruth

IOUS = np.linspace(0.5, 0.95, 10)
SIZES = {"all": (0.0, 1e5**2), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
MAX_DETECTIONS = 100  # per image and category
TRUE_POSITIVE = 1
FALSE_POSITIVE = 0
IGNORED = -1
ALMOST_ONE = 1 - 1e-10  # COCOeval never asks for more
PAIRS_AT_ONCE = 2**17  # so that what is worked on stays in the processor's cache


@dataclass(frozen=True)
class Matches:
    """The N detections of a category that count, from the strongest to the weakest, on I images."""

    image: NDArray[np.int64]  # [N] position of the image among the rising ids
    score: NDArray[np.float64]  # [N]
    rank: NDArray[np.int64]  # [N] place among the detections of the image and category, from 0
    outcome: NDArray[np.int8]  # [sizes, IoUs, N]: HIT, ALARM or IGNORED
    truths: NDArray[np.int64]  # [sizes, I] boxes to find

    def on(self, images: NDArray[np.bool_]) -> "Matches":
        """The same on some images [I]; the others stay in place and are empty."""
        rows = images[self.image]
        columns = {name: getattr(self, name)[rows] for name in ("image", "score", "rank")}
        return replace(self, **columns, outcome=self.outcome[..., rows], truths=self.truths * images)


def match_category(truth: GroundTruth, found: Detections, label: int) -> Matches:
    """Match the boxes and detections of one category on all images of `truth`."""
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    there = np.flatnonzero(truth.label == label)
    there = there[np.argsort(truth.image_id[there], kind="stable")]
    of_image = np.searchsorted(ids, truth.image_id[there])
    is_ignored = _ignored(truth, there)
    said = np.flatnonzero((found.label == label) & np.isin(found.image_id, ids))
    said, image, rank = _strongest(said, np.searchsorted(ids, found.image_id[said]), found.score, len(ids))
    xywh = to_xywh(found.xyxy[said])
    score = found.score[said]
    order = descending(score)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    outcome = _unmatched(xywh[order])
    boxes = CategoryBoxes(to_xywh(truth.xyxy[there]), truth.is_crowd[there], is_ignored)
    pairs = _near_pairs(xywh, boxes, np.bincount(of_image, minlength=len(ids)), image)
    _match(pairs, boxes, image, place, outcome)
    truths = np.stack([np.bincount(of_image[~row], minlength=len(ids)) for row in is_ignored])
    return Matches(image[order], score[order], rank[order], outcome, truths)


@dataclass(frozen=True)
class CategoryBoxes:
    """The G true boxes of a category, by image."""

    xywh: NDArray[np.float64]  # [G, 4]
    is_crowd: NDArray[np.bool_]  # [G]
    is_ignored: NDArray[np.bool_]  # [sizes, G] need not be found


@dataclass(frozen=True)
class NearPairs:
    """The P pairs of a detection and a box of its image that overlap enough for the lowest threshold."""

    found: NDArray[np.int64]  # [P] never falling
    box: NDArray[np.int64]  # [P] rising for each detection
    overlap: NDArray[np.float64]  # [P]


def descending(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N]: the order from the highest score to the lowest; equal scores keep theirs.

    Several times as fast as a stable sort: only among equal scores the rows are put in order, after the sort.
    """
    order = np.argsort(-score)
    ordered = score[order]
    is_equal = ordered[1:] == ordered[:-1]
    if is_equal.any():
        at = np.flatnonzero(np.append(is_equal, False) | np.append(False, is_equal))
        rows = order[at]
        order[at] = rows[np.lexsort((rows, -score[rows]))]
    return order


def _strongest(
    said: NDArray, image: NDArray, score: NDArray, num_images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows that count, by image and then from the strongest on, with image and rank; equal scores keep order."""
    order = descending(score[said])
    key = image[order].astype(np.uint16 if num_images <= 2**16 else np.int64)  # numpy sorts short keys much faster
    order = order[np.argsort(key, kind="stable")]
    said = said[order]
    image = image[order]
    rank = np.arange(len(image)) - _starts(np.bincount(image, minlength=num_images))[image]
    kept = rank < MAX_DETECTIONS
    return said[kept], image[kept], rank[kept]


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of some groups begins that stand one after the other."""
    return np.cumsum(counts) - counts


def _ignored(truth: GroundTruth, there: NDArray) -> NDArray[np.bool_]:
    """[sizes, G]: boxes that need not be found."""
    area = truth.area[there]
    return np.stack([truth.is_crowd[there] | (area < low) | (area > high) for low, high in SIZES.values()])


def _unmatched(xywh: NDArray[np.float64]) -> NDArray[np.int8]:
    """[sizes, IoUs, N]: what detections are that find nothing."""
    area = xywh[:, 2] * xywh[:, 3]
    outcome = np.empty((len(SIZES), len(IOUS), len(xywh)), dtype=np.int8)
    for own, (low, high) in zip(outcome, SIZES.values(), strict=True):
        own[:] = np.where((area < low) | (area > high), IGNORED, FALSE_POSITIVE)
    return outcome


def _near_pairs(
    xywh: NDArray, boxes: CategoryBoxes, boxes_on: NDArray[np.int64], image: NDArray[np.int64]
) -> NearPairs:
    """Compare detections [N, 4], by image, with the boxes of their image, of which it has `boxes_on` [I]."""
    first = _starts(boxes_on)[image]
    num = boxes_on[image]
    parts = []
    for rows in _blocks(num):
        found = np.repeat(rows, num[rows])
        box = np.arange(len(found)) - np.repeat(_starts(num[rows]), num[rows]) + first[found]
        values = overlap(xywh[found], boxes.xywh[box], boxes.is_crowd[box])
        near = np.flatnonzero(values >= IOUS[0])
        parts.append((found[near], box[near], values[near]))
    return NearPairs(*map(np.concatenate, zip(*parts, strict=True)))


def _blocks(num: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The detections whose image has boxes, `num` [N] of them, in one or more blocks of not too many pairs."""
    rows = np.flatnonzero(num)
    block = np.cumsum(num[rows]) // PAIRS_AT_ONCE
    yield from np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _match(pairs: NearPairs, boxes: CategoryBoxes, image: NDArray, place: NDArray, outcome: NDArray[np.int8]) -> None:
    """Write what detections find into the outcome [sizes, IoUs, N], that of detection n at `place[n]`.

    On each image the detections choose in turn, one of each image at a time.
    """
    found, first, num = np.unique(pairs.found, return_index=True, return_counts=True)
    on = np.unique(image[found], return_counts=True)[1]
    turn = np.arange(len(found)) - np.repeat(_starts(on), on)
    taken = np.zeros((len(SIZES), len(IOUS), len(boxes.is_crowd)), dtype=bool)
    ordered = np.argsort(turn, kind="stable")
    for now in np.split(ordered, np.cumsum(np.bincount(turn))[:-1]) if len(found) else []:
        columns = np.arange(num[now].max())
        is_pair = columns < num[now][:, None]
        at = np.where(is_pair, first[now][:, None] + columns, first[now][:, None])
        box = pairs.box[at]
        values = np.where(is_pair, pairs.overlap[at], 0.0)
        size, iou, row, column = _choose(values, box, boxes, taken)
        chosen = box[row, column]
        taken[size, iou, chosen] = True
        outcome[size, iou, place[found[now[row]]]] = np.where(boxes.is_ignored[size, chosen], IGNORED, TRUE_POSITIVE)


def _choose(values: NDArray, box: NDArray, boxes: CategoryBoxes, taken: NDArray[np.bool_]) -> tuple[NDArray, ...]:
    """Size, IoU, detection and column of its box, for each that finds one among its own: `values` and `box` [n, C].

    The best free box, one to be found before an ignored one; of equally good ones the last.
    """
    thresholds = np.minimum(IOUS, ALMOST_ONE)[:, None, None]
    is_open = (values >= thresholds) & (boxes.is_crowd[box] | ~taken[:, :, box])  # [sizes, IoUs, n, C]
    wanted = is_open & ~boxes.is_ignored[:, box][:, None]
    is_open = np.where(wanted.any(axis=-1, keepdims=True), wanted, is_open)
    best = values.shape[1] - 1 - np.where(is_open, values, -1.0)[..., ::-1].argmax(axis=-1)
    size, iou, row = np.nonzero(is_open.any(axis=-1))
    return size, iou, row, best[size, iou, row]
