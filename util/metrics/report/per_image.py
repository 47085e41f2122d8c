"""per_image.csv: one line per evaluated image, to see which images a metric depends on."""

import numpy as np
from numpy.typing import NDArray

from util.base.csv_text import csv_lines
from util.metrics.coco.match import FALSE_POSITIVE, TRUE_POSITIVE
from util.metrics.matching import match_boxes
from util.metrics.report.protocols import MatchedTables

PER_IMAGE_COLUMNS = (
    *("image_id", "file_name", "group", "boxes", "highest_score"),
    *("detections", "hits", "missed", "false_alarms"),
)


def per_image_csv(tables: MatchedTables) -> str:
    """Format the table: boxes, the highest score, and the class-agnostic outcomes at the operating point.

    Without an operating point every detection counts. `highest_score` is empty where there is no detection.
    """
    shown = tables.shown
    truth = tables.ground_truth
    outcome = match_boxes(tables.class_agnostic[0], shown).outcome

    def count(image_id: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(np.searchsorted(tables.ids, image_id), minlength=len(tables.ids))

    boxes = count(truth.image_id[~truth.is_crowd])
    true_positives = count(shown.image_id[outcome == TRUE_POSITIVE])
    columns = (
        tables.ids.tolist(),
        [truth.files.get(image, "") for image in tables.ids.tolist()],
        tables.image_scores.group.tolist(),
        boxes.tolist(),
        [score if np.isfinite(score) else "" for score in tables.image_scores.score.tolist()],
        count(shown.image_id).tolist(),
        true_positives.tolist(),
        (boxes - true_positives).tolist(),
        count(shown.image_id[outcome == FALSE_POSITIVE]).tolist(),
    )
    return "".join(csv_lines(PER_IMAGE_COLUMNS, zip(*columns, strict=True)))
