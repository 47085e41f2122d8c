"""Match detections with boxes by the rules of COCOeval, for one category, at all IoU thresholds and box sizes.

Equal to pycocotools to the last digit, and faster: all images are matched together, in rounds by falling score, and
only detections that overlap a box take part.
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
ALMOST_ONE = 1 - 1e-10  # the highest IoU threshold of COCOeval
PAIRS_AT_ONCE = 2**17  # so that a block fits the processor's cache


@dataclass(frozen=True)
class Matches:
    """The N detections of a category that count, by falling score, and their outcomes on I images."""

    image: NDArray[np.int64]  # [N] position of the image among the rising ids
    score: NDArray[np.float64]  # [N]
    rank: NDArray[np.int64]  # [N] place among the detections of the image and category, from 0
    outcome: NDArray[np.int8]  # [sizes, IoUs, N]: TRUE_POSITIVE, FALSE_POSITIVE or IGNORED
    num_boxes: NDArray[np.int64]  # [sizes, I] ground truth boxes that are not ignored

    def on(self, images: NDArray[np.bool_]) -> "Matches":
        """Restrict the matches to some images [I]; the others stay in place and are empty."""
        rows = images[self.image]
        columns = {name: getattr(self, name)[rows] for name in ("image", "score", "rank")}
        return replace(self, **columns, outcome=self.outcome[..., rows], num_boxes=self.num_boxes * images)


def match_category(truth: GroundTruth, detections: Detections, label: int) -> Matches:
    """Match the boxes and detections of one category on all images of `truth`."""
    ids = np.sort(np.array(truth.images, dtype=np.int64))
    gs = np.flatnonzero(truth.label == label)
    gs = gs[np.argsort(truth.image_id[gs], kind="stable")]
    image_of_box = np.searchsorted(ids, truth.image_id[gs])
    is_ignored = _ignored(truth, gs)
    ds = np.flatnonzero((detections.label == label) & np.isin(detections.image_id, ids))
    ds, image, rank = _strongest(ds, np.searchsorted(ids, detections.image_id[ds]), detections.score, len(ids))
    xywh = to_xywh(detections.xyxy[ds])
    score = detections.score[ds]
    order = descending(score)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    outcome = _unmatched(xywh[order])
    boxes = CategoryBoxes(to_xywh(truth.xyxy[gs]), truth.is_crowd[gs], is_ignored)
    pairs = _near_pairs(xywh, boxes, np.bincount(image_of_box, minlength=len(ids)), image)
    _match(pairs, boxes, image, place, outcome)
    num_boxes = np.stack([np.bincount(image_of_box[~row], minlength=len(ids)) for row in is_ignored])
    return Matches(image[order], score[order], rank[order], outcome, num_boxes)


@dataclass(frozen=True)
class CategoryBoxes:
    """The G ground truth boxes of a category, ordered by image."""

    xywh: NDArray[np.float64]  # [G, 4]
    is_crowd: NDArray[np.bool_]  # [G]
    is_ignored: NDArray[np.bool_]  # [sizes, G] crowds, and boxes of another size


@dataclass(frozen=True)
class NearPairs:
    """The P pairs of a detection and a box of its image that overlap enough for the lowest IoU threshold."""

    detection: NDArray[np.int64]  # [P] never falling
    box: NDArray[np.int64]  # [P] rising for each detection
    overlap: NDArray[np.float64]  # [P]


def descending(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Stable order [N] by falling score.

    Several times as fast as a stable sort: only rows of equal score are put in order, after the sort.
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
    ds: NDArray, image: NDArray, score: NDArray, num_images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the detections that count, by image and falling score, with image and rank; equal scores keep order."""
    order = descending(score[ds])
    key = image[order].astype(np.uint16 if num_images <= 2**16 else np.int64)  # numpy sorts short keys much faster
    order = order[np.argsort(key, kind="stable")]
    ds = ds[order]
    image = image[order]
    rank = np.arange(len(image)) - _starts(np.bincount(image, minlength=num_images))[image]
    kept = rank < MAX_DETECTIONS
    return ds[kept], image[kept], rank[kept]


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start of each of several consecutive groups of the given sizes."""
    return np.cumsum(counts) - counts


def _ignored(truth: GroundTruth, gs: NDArray) -> NDArray[np.bool_]:
    """Mask [sizes, G] of crowds and of boxes of another size, which may stay unmatched."""
    area = truth.area[gs]
    return np.stack([truth.is_crowd[gs] | (area < low) | (area > high) for low, high in SIZES.values()])


def _unmatched(xywh: NDArray[np.float64]) -> NDArray[np.int8]:
    """Outcomes [sizes, IoUs, N] of unmatched detections."""
    area = xywh[:, 2] * xywh[:, 3]
    outcome = np.empty((len(SIZES), len(IOUS), len(xywh)), dtype=np.int8)
    for own, (low, high) in zip(outcome, SIZES.values(), strict=True):
        own[:] = np.where((area < low) | (area > high), IGNORED, FALSE_POSITIVE)
    return outcome


def _near_pairs(
    xywh: NDArray, boxes: CategoryBoxes, boxes_on: NDArray[np.int64], image: NDArray[np.int64]
) -> NearPairs:
    """Pair detections [N, 4], ordered by image, with the boxes of their image; image i has `boxes_on[i]`."""
    first = _starts(boxes_on)[image]
    num = boxes_on[image]
    parts = []
    for rows in _blocks(num):
        detection = np.repeat(rows, num[rows])
        box = np.arange(len(detection)) - np.repeat(_starts(num[rows]), num[rows]) + first[detection]
        values = overlap(xywh[detection], boxes.xywh[box], boxes.is_crowd[box])
        near = np.flatnonzero(values >= IOUS[0])
        parts.append((detection[near], box[near], values[near]))
    return NearPairs(*map(np.concatenate, zip(*parts, strict=True)))


def _blocks(num: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Split the detections whose image has boxes, `num` [N] of them, into blocks of about PAIRS_AT_ONCE pairs."""
    rows = np.flatnonzero(num)
    block = np.cumsum(num[rows]) // PAIRS_AT_ONCE
    yield from np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _match(pairs: NearPairs, boxes: CategoryBoxes, image: NDArray, place: NDArray, outcome: NDArray[np.int8]) -> None:
    """Write matches into the outcome [sizes, IoUs, N], that of detection n at `place[n]`.

    In each round the next detection of every image chooses its box.
    """
    detection, first, num = np.unique(pairs.detection, return_index=True, return_counts=True)
    on = np.unique(image[detection], return_counts=True)[1]
    round_of = np.arange(len(detection)) - np.repeat(_starts(on), on)
    taken = np.zeros((len(SIZES), len(IOUS), len(boxes.is_crowd)), dtype=bool)
    ordered = np.argsort(round_of, kind="stable")
    for now in np.split(ordered, np.cumsum(np.bincount(round_of))[:-1]) if len(detection) else []:
        columns = np.arange(num[now].max())
        is_pair = columns < num[now][:, None]
        at = np.where(is_pair, first[now][:, None] + columns, first[now][:, None])
        box = pairs.box[at]
        values = np.where(is_pair, pairs.overlap[at], 0.0)
        size, iou, row, column = _choose(values, box, boxes, taken)
        chosen = box[row, column]
        taken[size, iou, chosen] = True
        outcome[size, iou, place[detection[now[row]]]] = np.where(
            boxes.is_ignored[size, chosen], IGNORED, TRUE_POSITIVE
        )


def _choose(values: NDArray, box: NDArray, boxes: CategoryBoxes, taken: NDArray[np.bool_]) -> tuple[NDArray, ...]:
    """Indices of size, IoU, detection and column of its box, for each match among overlaps `values` and `box` [n, C].

    The free box of largest overlap is chosen, ignored boxes last; of equal overlaps the last box.
    """
    thresholds = np.minimum(IOUS, ALMOST_ONE)[:, None, None]
    is_open = (values >= thresholds) & (boxes.is_crowd[box] | ~taken[:, :, box])  # [sizes, IoUs, n, C]
    is_preferred = is_open & ~boxes.is_ignored[:, box][:, None]
    is_open = np.where(is_preferred.any(axis=-1, keepdims=True), is_preferred, is_open)
    best = values.shape[1] - 1 - np.where(is_open, values, -1.0)[..., ::-1].argmax(axis=-1)
    size, iou, row = np.nonzero(is_open.any(axis=-1))
    return size, iou, row, best[size, iou, row]
