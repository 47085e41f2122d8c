"""One line per evaluated image: where to look when a figure surprises."""

from collections.abc import Iterator

import numpy as np

from util.base.csv_text import Cell, csv_lines
from util.metrics.coco.match import FALSE_POSITIVE, TRUE_POSITIVE
from util.metrics.matching import match_boxes, select_rows
from util.metrics.report.protocols import MatchedTables

PER_IMAGE_COLUMNS = (
    "image_id",
    "file_name",
    "group",
    "boxes",
    "highest_score",
    "detections",
    "hits",
    "missed",
    "false_alarms",
)


def per_image_csv(study: MatchedTables) -> str:
    """The table as text: boxes, the highest score, and at the operating point what was found, classes taken as one.

    Without an operating point every detection counts. `highest_score` is empty where there is no detection.
    """
    threshold = -np.inf if study.threshold is None else study.threshold
    found = study.deduplicated.on(study.ground_truth.images)
    strong = select_rows(found, np.flatnonzero(found.score >= threshold))
    outcome = match_boxes(study.class_agnostic[0], strong).outcome
    place = {image: n for n, image in enumerate(study.ids.tolist())}
    is_box = ~study.ground_truth.is_crowd

    def count(image_id: np.ndarray) -> np.ndarray:
        return np.bincount([place[i] for i in image_id.tolist()], minlength=len(place))

    boxes = count(study.ground_truth.image_id[is_box])
    hits = count(strong.image_id[outcome == TRUE_POSITIVE])
    said = count(strong.image_id)
    alarms = count(strong.image_id[outcome == FALSE_POSITIVE])
    scores = study.image_scores.score.tolist()

    def rows() -> Iterator[tuple[Cell, ...]]:
        for n, image in enumerate(study.ids.tolist()):
            score = scores[n] if np.isfinite(scores[n]) else ""
            name = study.ground_truth.files.get(image, "")
            counts = (said[n], hits[n], boxes[n] - hits[n], alarms[n])
            yield image, name, study.image_scores.group[n], boxes[n], score, *counts

    return "".join(csv_lines(PER_IMAGE_COLUMNS, rows()))
