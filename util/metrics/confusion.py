"""Confusion matrix of box classes at one score threshold, with a background row and column."""

from __future__ import annotations

from collections import Counter

import numpy as np

from util.metrics.coco.match import FALSE_POSITIVE
from util.metrics.matching import as_one_class, match_boxes, unique_rows
from util.metrics.tables import BACKGROUND, Detections, GroundTruth


def confusion(truth: GroundTruth, detections: Detections, threshold: float) -> dict[str, dict[str, int]]:
    """Count {true class: {predicted class: n}}; "background" stands for a missed box and for a false positive.

    Detections of at least `threshold` are matched with boxes whatever their class; of equal boxes under two classes
    the one of higher score counts. Classes with neither a box nor a detection are left out. The pair (background,
    background) has no meaning and is 0.
    """
    strong = detections.on(truth.images).above(threshold)
    strong = strong.select(np.argsort(strong.label, kind="stable"))  # of equal scores the lower label counts
    strong = strong.select(unique_rows(as_one_class(strong)))
    matches = match_boxes(as_one_class(truth), as_one_class(strong))
    is_matched = matches.box >= 0
    is_missed = ~truth.is_crowd
    is_missed[matches.box[is_matched]] = False
    counts: Counter[tuple[int | None, int | None]] = Counter()  # (true, predicted) label; None is background
    counts.update(zip(truth.label[matches.box[is_matched]].tolist(), strong.label[is_matched].tolist(), strict=True))
    counts.update((label, None) for label in truth.label[is_missed].tolist())
    counts.update((None, label) for label in strong.label[matches.outcome == FALSE_POSITIVE].tolist())
    labels = sorted({label for pair in counts for label in pair if label is not None})
    keys = truth.category_keys
    used = [(label, keys.get(label, str(label))) for label in labels] + [(None, BACKGROUND)]
    return {row: {column: counts[true, predicted] for predicted, column in used} for true, row in used}
