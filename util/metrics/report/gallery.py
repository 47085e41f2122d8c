"""Choose the images to inspect first: the worst misses and the worst false positives."""

import numpy as np

from util.metrics.coco.match import FALSE_POSITIVE
from util.metrics.coco.overlap import overlaps, to_xywh
from util.metrics.matching import IOU_THRESHOLD, match_boxes
from util.metrics.report.protocols import MatchedTables


def worst_misses(tables: MatchedTables, num: int) -> list[int]:
    """Choose up to `num` image ids with a box missed at the operating point, those of the lowest scores first.

    The score of a missed box is the highest one of a detection of any class that overlaps it by IOU_THRESHOLD. Missed
    are the same boxes as in per_image.csv; without an operating point every detection counts.
    """
    truth = tables.class_agnostic[0]
    detections = tables.deduplicated
    is_missed = ~truth.is_crowd & ~np.isin(np.arange(len(truth)), match_boxes(truth, tables.shown).box)
    scores: dict[int, float] = {}
    for box in np.flatnonzero(is_missed).tolist():
        near = detections.select(detections.image_id == truth.image_id[box])
        values = overlaps(to_xywh(near.xyxy), to_xywh(truth.xyxy[box : box + 1]), np.zeros(1, dtype=bool))[:, 0]
        best = float(near.score[values >= IOU_THRESHOLD].max(initial=-np.inf))
        image = int(truth.image_id[box])
        scores[image] = min(best, scores.get(image, np.inf))
    return sorted(scores, key=lambda i: (scores[i], i))[:num]


def worst_false_positives(tables: MatchedTables, num: int) -> list[int]:
    """Choose up to `num` image ids with class-agnostic false positives at the operating point, highest score first."""
    shown = tables.shown
    wrong = shown.select(match_boxes(tables.class_agnostic[0], shown).outcome == FALSE_POSITIVE)
    order = np.lexsort((wrong.image_id, -wrong.score))
    return list(dict.fromkeys(wrong.image_id[order].tolist()))[:num]
