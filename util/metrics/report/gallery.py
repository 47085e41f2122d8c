"""Which images to look at first: the worst misses and the worst false alarms."""

import numpy as np

from util.metrics.coco.match import FALSE_POSITIVE
from util.metrics.coco.overlap import overlaps, to_xywh
from util.metrics.matching import IOU_THRESHOLD, match_boxes, select_rows
from util.metrics.report.protocols import MatchedTables
from util.metrics.tables import Detections


def worst_misses(study: MatchedTables, num: int) -> list[int]:
    """Up to `num` image ids with a box that no detection of the operating point finds, least suspected first.

    How much a box is suspected is the highest score of a detection that overlaps it by IOU, classes taken as one.
    Missed are the same boxes as in per_image.csv; without an operating point every detection counts.
    """
    truth = study.class_agnostic[0]
    found = study.deduplicated
    strong = _at_operating_point(study)
    is_missed = ~truth.is_crowd & ~np.isin(np.arange(len(truth)), match_boxes(truth, strong).box)
    suspicion: dict[int, float] = {}
    for box in np.flatnonzero(is_missed).tolist():
        rows = np.flatnonzero(found.image_id == truth.image_id[box])
        values = overlaps(to_xywh(found.xyxy[rows]), to_xywh(truth.xyxy[box : box + 1]), np.zeros(1, dtype=bool))[:, 0]
        best = float(found.score[rows][values >= IOU_THRESHOLD].max(initial=-np.inf))
        image = int(truth.image_id[box])
        suspicion[image] = min(best, suspicion.get(image, np.inf))
    return sorted(suspicion, key=lambda i: (suspicion[i], i))[:num]


def worst_false_positives(study: MatchedTables, num: int) -> list[int]:
    """Up to `num` image ids with the strongest detections of the operating point that find no box; strongest first.

    Classes are taken as one.
    """
    found = _at_operating_point(study)
    alarms = np.flatnonzero(match_boxes(study.class_agnostic[0], found).outcome == FALSE_POSITIVE)
    order = alarms[np.lexsort((found.image_id[alarms], -found.score[alarms]))]
    return list(dict.fromkeys(found.image_id[order].tolist()))[:num]


def _at_operating_point(study: MatchedTables) -> Detections:
    found = study.deduplicated.on(study.ground_truth.images)
    return found if study.threshold is None else select_rows(found, np.flatnonzero(found.score >= study.threshold))
