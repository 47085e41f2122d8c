"""Recognise boxes that are not in the format they are read in, by their images and by the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.overlap import overlap, to_xywh
from util.metrics.files import LAYOUTS, Layout
from util.metrics.results.box_format import UNIT, BoxFormat, Scale
from util.metrics.tables import Detections, GroundTruth

OVERHANG = 0.1  # of the side of an image that a box may leave it by: networks predict boxes that are not clipped
STRAY = 0.02  # the same of the center of a box
MOST_ROWS = 20_000  # that are compared with their images
SURE_IOU = 0.7  # of a detection and a box that are the same by no chance
TIMES = 5  # as many hits as now, and one of so many boxes of the ground truth, make a format likely
FEWEST = 3  # boxes, on which alone nothing is refused
# Sides that networks and annotation tools scale images to
SIDES = (
    *(
        100,
        128,
        192,
        200,
        224,
        256,
        300,
        320,
        384,
        400,
        416,
        448,
        480,
        500,
        512,
        544,
        576,
        600,
        608,
        640,
        672,
        704,
        736,
    ),
    *(768, 800, 832, 864, 896, 900, 928, 960, 1000, 1024, 1088, 1152, 1200, 1216, 1280, 1333, 1344, 1408, 1472),
    *(1500, 1536, 1600, 1792, 1920, 2000, 2048, 2500, 3000, 4096),
)


@dataclass(frozen=True)
class Suspicion:
    """Boxes that are probably in another format."""

    likely: BoxFormat
    reason: str
    is_sure: bool  # enough boxes to refuse the file


@dataclass(frozen=True)
class FormatEvidence:
    """Boxes of a results file beside their images and the ground truth.

    Args:
        boxes: [N, 4] as the file states them.
        detections: the same, with their images and scores.
        truth: the ground truth.
    """

    boxes: NDArray[np.float64]
    detections: Detections
    truth: GroundTruth

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """[N, 2]: width and height of the image of each box."""
        ids, row = np.unique(self.detections.image_id, return_inverse=True)
        return np.array([self.truth.sizes[i][::-1] for i in ids.tolist()], dtype=float).reshape(-1, 2)[row]

    def suspect(self, current: BoxFormat, others: Sequence[BoxFormat]) -> Suspicion | None:
        """Find the one of other formats that fits clearly better than the current one; None where none does."""
        if not len(self.boxes) or not others:
            return None
        return self._suspect_by_ground_truth(current, others) or self._suspect_by_images(current, others)

    def fits(self, box_format: BoxFormat) -> NDArray[np.bool_]:
        """[n]: whether a box, one of a sample, has sides of a pixel or more and leaves its image by little."""
        xyxy, sizes = self._sample(box_format)
        margin = OVERHANG * sizes
        is_inside = (xyxy[:, :2] >= -margin) & (xyxy[:, 2:] <= sizes + margin)
        return np.all(is_inside & (xyxy[:, 2:] - xyxy[:, :2] >= 1), axis=1)

    def hits_by_category(self, box_format: BoxFormat) -> tuple[int, int]:
        """The number of boxes of the ground truth that have a detection, and of those with one of their category."""
        truth, found = self._pairs
        is_hit = self._pair_overlaps(box_format) >= SURE_IOU
        is_same = self.detections.label[found] == self.truth.label[~self.truth.is_crowd][truth]
        return len(np.unique(truth[is_hit])), len(np.unique(truth[is_hit & is_same]))

    def _suspect_by_images(self, current: BoxFormat, others: Sequence[BoxFormat]) -> Suspicion | None:
        """By boxes that leave their image or are below a pixel."""
        fits = self.fits(current)
        if fits.mean() >= 0.9:
            return None
        xyxy, sizes = self._sample(current)
        center = (xyxy[:, :2] + xyxy[:, 2:]) / 2
        strays = ((center < -STRAY * sizes) | (center > (1 + STRAY) * sizes)).any(axis=1)
        is_scaled = strays.mean() > 0.05
        shares = {o: self.fits(o).mean() for o in others if is_scaled or o.scale in (current.scale, None, UNIT)}
        likely = max(
            shares, key=lambda other: (round(shares[other], 2), self._best_overlaps(other).sum()), default=current
        )
        if shares.get(likely, 0.0) < max(0.95, fits.mean() + 0.1):
            return None
        wrong = int((~fits).sum())
        reason = f"{wrong} of {len(fits)} boxes leave their image or are below a pixel"
        return Suspicion(likely, reason, wrong >= FEWEST or likely.scale == UNIT)

    def _suspect_by_ground_truth(self, current: BoxFormat, others: Sequence[BoxFormat]) -> Suspicion | None:
        """By boxes that are equal to ground truth, as a wrong format does not make them."""
        as_read = self._best_overlaps(current)
        num = len(as_read)
        now = int((as_read >= SURE_IOU).sum())
        if now > num / TIMES:
            return None
        overlaps = {other: self._best_overlaps(other) for other in others}
        hits = {other: int((iou >= SURE_IOU).sum()) for other, iou in overlaps.items()}
        likely = max(others, key=lambda other: (hits[other], overlaps[other].sum()))
        if hits[likely] < max(FEWEST, num / TIMES, TIMES * now):
            return None
        reason = (
            f"{hits[likely]} instead of {now} of {num} boxes of the ground truth then have a detection with "
            f"an IoU of {SURE_IOU:g}"
        )
        return Suspicion(likely, reason, is_sure=True)

    def _sample(self, box_format: BoxFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners in pixels [n, 4] and sizes of the images [n, 2] of every k-th box."""
        rows = slice(None, None, max(1, len(self.boxes) // MOST_ROWS))
        return box_format.to_pixels(self.boxes[rows], self.sizes[rows]), self.sizes[rows]

    def _best_overlaps(self, box_format: BoxFormat) -> NDArray[np.float64]:
        """[G]: the highest IoU of each box of the ground truth."""
        best = np.zeros(int((~self.truth.is_crowd).sum()))
        np.maximum.at(best, self._pairs[0], self._pair_overlaps(box_format))
        return best

    def _pair_overlaps(self, box_format: BoxFormat) -> NDArray[np.float64]:
        """[P]: the IoU of each pair."""
        truth, found = self._pairs
        boxes = to_xywh(self.truth.xyxy[~self.truth.is_crowd])[truth]
        xywh = to_xywh(box_format.to_pixels(self.boxes[found], self.sizes[found]))
        return overlap(xywh, boxes, np.zeros(len(truth), dtype=bool))

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each box of the ground truth, and the strongest detections of its image, twice as many as it has boxes."""
        order = np.lexsort((-self.detections.score, self.detections.image_id))
        image = self.truth.image_id[~self.truth.is_crowd]
        ids, row, counts = np.unique(image, return_inverse=True, return_counts=True)
        first, end = (np.searchsorted(self.detections.image_id[order], ids, side=s)[row] for s in ("left", "right"))
        num = np.minimum(end - first, 2 * counts[row])
        truth = np.repeat(np.arange(len(image)), num)
        place = np.arange(len(truth)) - np.repeat(np.cumsum(num) - num, num)
        return truth, order[first[truth] + place]


def candidates(layout: Layout | None, scale: Scale | Literal["any"], truth: GroundTruth) -> list[BoxFormat]:
    """The formats a file may have, the most frequent first.

    Args:
        layout: that of the boxes, if it is known.
        scale: that of the boxes, if it is known.
        truth: the images. If these have one size, they may also be scaled to a shorter side.
    """
    scales: list[Scale] = [None, UNIT, *((float(n), float(n)) for n in SIDES)] if scale == "any" else [scale]
    sizes = set(truth.sizes.values())
    if scale == "any" and len(sizes) == 1:
        height, width = next(iter(sizes))
        if height != width:
            scales += [(round(width * n / min(width, height)), round(height * n / min(width, height))) for n in SIDES]
    layouts: list[Layout] = [layout] if layout else [*LAYOUTS]
    return [BoxFormat(one, units) for units, one in product(scales, layouts)]
