"""Which detection finds which box, at one IoU threshold: what all figures but COCO's are made of.

Within an image and label, detections choose from the strongest to the weakest the free box of largest overlap.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.match import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from util.metrics.coco.overlap import overlaps, to_xywh
from util.metrics.tables import BoxTable, Detections, GroundTruth

IOU_THRESHOLD = 0.5
ONE_CLASS = 0


@dataclass(frozen=True)
class BoxMatches:
    """What became of the N detections, in the order of their table."""

    outcome: NDArray[np.int8]  # [N] HIT, ALARM, or IGNORED: inside a crowd
    box: NDArray[np.int64]  # [N] row of the box that is found, -1 where there is none


def match_boxes(truth: GroundTruth, found: Detections, iou: float = IOU_THRESHOLD) -> BoxMatches:
    """Give each detection at most one box and each box at most one detection of its image and label.

    Equal scores are taken in the order of label and corners, so the order of the rows changes nothing. A detection
    without a box, of which at least the share `iou` lies in a crowd, is ignored.
    """
    outcome = np.full(len(found), FALSE_POSITIVE, dtype=np.int8)
    box = np.full(len(found), -1, dtype=np.int64)
    order = np.lexsort((*found.xyxy.T[::-1], -found.score, found.label, found.image_id))
    there = np.lexsort((truth.label, truth.image_id))
    xywh = to_xywh(found.xyxy)
    truth_xywh = to_xywh(truth.xyxy)
    for label in np.unique(truth.label).tolist():
        gs = there[truth.label[there] == label]
        ds = order[found.label[order] == label]
        of_truth = truth.image_id[gs]
        of_found = found.image_id[ds]
        images, first, counts = np.unique(of_truth, return_index=True, return_counts=True)
        begin, end = (np.searchsorted(of_found, images, side=side) for side in ("left", "right"))
        for i in np.flatnonzero(end > begin).tolist():
            g = gs[first[i] : first[i] + counts[i]]
            d = ds[begin[i] : end[i]]
            is_crowd = truth.is_crowd[g]
            values = overlaps(xywh[d], truth_xywh[g], is_crowd)
            outcome[d[(values >= iou) @ is_crowd]] = IGNORED
            for row, column in _choose(np.where(is_crowd, 0.0, values), iou):
                outcome[d[row]] = TRUE_POSITIVE
                box[d[row]] = g[column]
    return BoxMatches(outcome, box)


def _choose(values: NDArray, iou: float) -> list[tuple[int, int]]:
    """(detection, box) of [D, G] overlaps, the strongest detection first."""
    taken: list[tuple[int, int]] = []
    free = values.copy()
    for row in np.flatnonzero((values >= iou).any(axis=1)).tolist():
        column = int(free[row].argmax())
        if free[row, column] >= iou:
            taken.append((row, column))
            free[:, column] = -1.0
    return taken


def as_one_class(boxes: BoxTable) -> BoxTable:
    """The same boxes as one class: class-agnostic figures are those of these tables."""
    changes = {"label": np.full(len(boxes), ONE_CLASS, dtype=np.int64)}
    if isinstance(boxes, GroundTruth):
        changes["names"] = {ONE_CLASS: "any"}
    return replace(boxes, **changes)


def deduplicate(found: Detections) -> Detections:
    """The rows that `unique_rows` names."""
    return select_rows(found, unique_rows(found))


def unique_rows(found: Detections) -> NDArray[np.int64]:
    """Of detections of one image and label whose four coordinates are the same number for number, the strongest.

    A query that answers under two classes says one box twice. As one class that is one detection: without this,
    each lesion found would bring its own false alarm. Boxes that differ in any digit are different detections.
    """
    keys = (*found.xyxy.T, found.label, found.image_id)
    order = np.lexsort((-found.score, *keys))
    is_first = np.ones(len(found), dtype=bool)
    is_first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return np.sort(order[is_first])


def select_rows(found: Detections, rows: NDArray) -> Detections:
    """Some rows of a table, in the order given; the images stay."""
    columns = (getattr(found, name)[rows] for name in ("image_id", "label", "xyxy", "score"))
    return Detections(found.images, *columns)
