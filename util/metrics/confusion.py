"""Active taken for latent, or for background: what becomes of boxes and detections at one threshold."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from util.metrics.coco.match import FALSE_POSITIVE
from util.metrics.matching import IOU_THRESHOLD, as_one_class, match_boxes, select_rows, unique_rows
from util.metrics.tables import Detections, GroundTruth

BACKGROUND = "background"


def confusion(
    truth: GroundTruth, found: Detections, threshold: float, iou: float = IOU_THRESHOLD
) -> dict[str, dict[str, int]]:
    """Counts as {true class: {found class: n}}; "background" stands for a box not found and for a false alarm.

    Detections of at least `threshold` are paired with boxes whatever their class; of the same box under two classes
    the higher score speaks. Classes with neither a box nor a detection are left out. A pair (background, background)
    has no meaning and is 0.
    """
    found = found.on(truth.images)
    strong = select_rows(found, np.flatnonzero(found.score >= threshold))
    strong = select_rows(strong, np.argsort(strong.label, kind="stable"))  # of equal scores the lower label speaks
    speaking = select_rows(strong, unique_rows(as_one_class(strong)))
    labels = speaking.label
    pairs = match_boxes(as_one_class(truth), as_one_class(speaking), iou)
    counts = _Counts({**{int(k): str(k) for k in np.unique(labels)}, **truth.names})
    hit = pairs.box >= 0
    counts.add(truth.label[pairs.box[hit]], labels[hit])
    is_missed = ~truth.is_crowd
    is_missed[pairs.box[hit]] = False
    counts.add(truth.label[is_missed], None)
    counts.add(None, labels[pairs.outcome == FALSE_POSITIVE])
    return counts.table()


class _Counts:
    """A table of counts by names."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.ids = sorted(names)
        self.names = [*(names[k] for k in self.ids), BACKGROUND]
        self.counts = np.zeros((len(self.names), len(self.names)), dtype=np.int64)

    def add(self, true: NDArray | None, said: NDArray | None) -> None:
        """One count per row of labels; None is background."""
        rows = len(self.ids) if true is None else np.searchsorted(self.ids, true)
        columns = len(self.ids) if said is None else np.searchsorted(self.ids, said)
        np.add.at(self.counts, (rows, columns), 1)

    def table(self) -> dict[str, dict[str, int]]:
        """The classes that occur, background last."""
        used = [n for n in range(len(self.ids)) if self.counts[n].any() or self.counts[:, n].any()]
        used.append(len(self.ids))
        return {self.names[r]: {self.names[c]: int(self.counts[r, c]) for c in used} for r in used}
