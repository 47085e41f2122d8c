"""Which detection finds which box by the rules of COCOeval, for one category and all its thresholds and sizes.

Equal to pycocotools to the last digit, and faster: only detections that overlap a box are compared with it, so images
without a box cost nothing but their place in the order.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from util.metrics.overlap import overlaps, to_xywh
from util.metrics.tables import Detections, GroundTruth

IOUS = np.linspace(0.5, 0.95, 10)
SIZES = {"all": (0.0, 1e5**2), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
MOST_DETECTIONS = 100  # per image and category
HIT, ALARM, IGNORED = 1, 0, -1
ALMOST_ONE = 1 - 1e-10  # COCOeval never asks for more


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
    said = np.flatnonzero((found.label == label) & np.isin(found.image_id, ids))
    image = np.searchsorted(ids, found.image_id[said])
    said, image, rank = _strongest(said, image, found.score)
    xywh = to_xywh(found.xyxy[said])
    area = xywh[:, 2] * xywh[:, 3]
    outcome = np.full((len(SIZES), len(IOUS), len(said)), ALARM, dtype=np.int8)
    for size, (low, high) in enumerate(SIZES.values()):
        outcome[size, :, (area < low) | (area > high)] = IGNORED
    there = there[np.argsort(truth.image_id[there], kind="stable")]
    of_image = np.searchsorted(ids, truth.image_id[there])
    is_ignored = _ignored(truth, there)
    truth_xywh, is_crowd = to_xywh(truth.xyxy[there]), truth.is_crowd[there]
    for i in np.unique(of_image).tolist():
        gs = slice(*np.searchsorted(of_image, [i, i + 1]))
        ds = slice(*np.searchsorted(image, [i, i + 1]))
        values = overlaps(xywh[ds], truth_xywh[gs], is_crowd[gs])
        _match_image(values, is_ignored[:, gs], is_crowd[gs], outcome[..., ds])
    truths = np.stack([np.bincount(of_image[~row], minlength=len(ids)) for row in is_ignored])
    order = np.argsort(-found.score[said], kind="stable")
    return Matches(image[order], found.score[said][order], rank[order], outcome[..., order], truths)


def _strongest(said: NDArray, image: NDArray, score: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The rows that count, by image and then from the strongest on, with image and rank; equal scores keep order."""
    order = np.lexsort((-score[said], image))
    said, image = said[order], image[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    kept = rank < MOST_DETECTIONS
    return said[kept], image[kept], rank[kept]


def _ignored(truth: GroundTruth, there: NDArray) -> NDArray[np.bool_]:
    """[sizes, G]: boxes that need not be found."""
    area = truth.area[there]
    return np.stack([truth.is_crowd[there] | (area < low) | (area > high) for low, high in SIZES.values()])


def _match_image(values: NDArray, is_ignored: NDArray, is_crowd: NDArray, outcome: NDArray[np.int8]) -> None:
    """Write the outcome [sizes, IoUs, D] of one image; a detection without enough overlap keeps its own."""
    near = np.flatnonzero((values >= IOUS[0]).any(axis=1))
    known: dict[bytes, dict[tuple[int, int], int]] = {}
    for size in range(len(SIZES) if len(near) else 0):
        flags = is_ignored[size]
        if flags.tobytes() not in known:
            known[flags.tobytes()] = _assign(values[near], flags, is_crowd)
        for (iou, row), box in known[flags.tobytes()].items():
            outcome[size, iou, near[row]] = IGNORED if flags[box] else HIT


def _assign(values: NDArray, is_ignored: NDArray, is_crowd: NDArray) -> dict[tuple[int, int], int]:
    """(IoU, detection) -> box. Detections choose in turn: the best free box, one to be found before an ignored one."""
    boxes = np.argsort(is_ignored, kind="stable").tolist()
    ignored, crowd, rows = is_ignored.tolist(), is_crowd.tolist(), values.tolist()
    pairs: dict[tuple[int, int], int] = {}
    for n, threshold in enumerate(np.minimum(IOUS, ALMOST_ONE).tolist()):
        taken: set[int] = set()
        for d, row in enumerate(rows):
            best, least = -1, threshold
            for g in boxes:
                if g in taken and not crowd[g]:
                    continue
                if best >= 0 and ignored[g] and not ignored[best]:
                    break
                if row[g] >= least:
                    best, least = g, row[g]
            if best >= 0:
                pairs[n, d] = best
                taken.add(best)
    return pairs
