"""One line per evaluated image: where to look when a figure surprises."""

from collections.abc import Iterator

import numpy as np

from util.base.csv_text import Cell, csv_lines
from util.metrics.coco.match import ALARM, HIT
from util.metrics.matching import pair, rows_of
from util.metrics.report.protocols import Study

COLUMNS = ("image_id", "file_name", "group", "boxes", "highest_score", "detections", "hits", "missed", "false_alarms")


def per_image_csv(study: Study) -> str:
    """The table as text: boxes, the highest score, and at the operating point what was found, classes taken as one.

    Without an operating point every detection counts. `highest_score` is empty where there is no detection.
    """
    threshold = -np.inf if study.threshold is None else study.threshold
    found = study.one_once.on(study.truth.images)
    strong = rows_of(found, np.flatnonzero(found.score >= threshold))
    outcome = pair(study.one[0], strong).outcome
    place = {image: n for n, image in enumerate(study.ids.tolist())}
    is_box = ~study.truth.is_crowd

    def count(image_id: np.ndarray) -> np.ndarray:
        return np.bincount([place[i] for i in image_id.tolist()], minlength=len(place))

    boxes, hits = count(study.truth.image_id[is_box]), count(strong.image_id[outcome == HIT])
    said, alarms = count(strong.image_id), count(strong.image_id[outcome == ALARM])
    scores = study.images.score.tolist()

    def rows() -> Iterator[tuple[Cell, ...]]:
        for n, image in enumerate(study.ids.tolist()):
            score = scores[n] if np.isfinite(scores[n]) else ""
            name = study.truth.files.get(image, "")
            counts = (said[n], hits[n], boxes[n] - hits[n], alarms[n])
            yield image, name, study.images.group[n], boxes[n], score, *counts

    return "".join(csv_lines(COLUMNS, rows()))
