"""Match detections with ground truth boxes at one IoU threshold, for all metrics but COCO's.

Within an image and label, detections in order of falling score take the free box that they overlap most.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.match import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from util.metrics.coco.overlap import overlaps, to_xywh
from util.metrics.tables import Detections, GroundTruth, TableT

IOU_THRESHOLD = 0.5
ONE_CLASS = 0


@dataclass(frozen=True)
class BoxMatches:
    """The outcome of each of N detections, in the order of their table."""

    outcome: NDArray[np.int8]  # [N] TRUE_POSITIVE, FALSE_POSITIVE, or IGNORED: inside a crowd
    box: NDArray[np.int64]  # [N] row of the matched box, -1 where there is none


def match_boxes(truth: GroundTruth, detections: Detections) -> BoxMatches:
    """Match each detection with at most one box of its image and label, and each box with at most one detection.

    Detections of equal score are taken in the order of label and corners, so the order of the rows changes nothing. An
    unmatched detection of which at least the share IOU_THRESHOLD lies in a crowd is ignored.
    """
    outcome = np.full(len(detections), FALSE_POSITIVE, dtype=np.int8)
    box = np.full(len(detections), -1, dtype=np.int64)
    order = np.lexsort((*detections.xyxy.T[::-1], -detections.score, detections.label, detections.image_id))
    truth_order = np.lexsort((truth.label, truth.image_id))
    xywh = to_xywh(detections.xyxy)
    truth_xywh = to_xywh(truth.xyxy)
    for label in np.unique(truth.label).tolist():
        gs = truth_order[truth.label[truth_order] == label]
        ds = order[detections.label[order] == label]
        images, first, counts = np.unique(truth.image_id[gs], return_index=True, return_counts=True)
        begin, end = (np.searchsorted(detections.image_id[ds], images, side=side) for side in ("left", "right"))
        for i in np.flatnonzero(end > begin).tolist():
            g = gs[first[i] : first[i] + counts[i]]
            d = ds[begin[i] : end[i]]
            is_crowd = truth.is_crowd[g]
            values = overlaps(xywh[d], truth_xywh[g], is_crowd)
            outcome[d[(values >= IOU_THRESHOLD) @ is_crowd]] = IGNORED
            for row, column in _choose(np.where(is_crowd, 0.0, values)):
                outcome[d[row]] = TRUE_POSITIVE
                box[d[row]] = g[column]
    return BoxMatches(outcome, box)


def _choose(values: NDArray) -> list[tuple[int, int]]:
    """Pairs (detection, box) of overlaps [D, G], whose rows stand in order of falling score."""
    pairs: list[tuple[int, int]] = []
    free = values.copy()
    for row in np.flatnonzero((values >= IOU_THRESHOLD).any(axis=1)).tolist():
        column = int(free[row].argmax())
        if free[row, column] >= IOU_THRESHOLD:
            pairs.append((row, column))
            free[:, column] = -1.0
    return pairs


def as_one_class(boxes: TableT) -> TableT:
    """Give all boxes one label: class-agnostic metrics are those of the resulting tables."""
    one = replace(boxes, label=np.full(len(boxes), ONE_CLASS, dtype=np.int64))
    return replace(one, names={ONE_CLASS: "any"}) if isinstance(one, GroundTruth) else one


def deduplicate(detections: Detections) -> Detections:
    """Keep the detections that `unique_rows` names."""
    return detections.select(unique_rows(detections))


def unique_rows(detections: Detections) -> NDArray[np.int64]:
    """Rows of the highest score among detections of one image and label whose coordinates are exactly equal.

    A query that predicts two classes gives one box twice. As one class that is one detection: otherwise each true
    positive would bring its own false positive. Boxes that differ in any digit are different detections.
    """
    keys = (*detections.xyxy.T, detections.label, detections.image_id)
    order = np.lexsort((-detections.score, *keys))
    is_first = np.ones(len(detections), dtype=bool)
    is_first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return np.sort(order[is_first])
