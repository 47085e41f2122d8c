"""Read the results file of any tool as detections in pixels of the images that a ground truth file lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from util.base.text import first_few
from util.metrics.files import LAYOUTS, DetectionsError, Layout, read_json, tabulate
from util.metrics.results.box_format import BoxFormat, Scale
from util.metrics.results.recognise import FEWEST, SURE_IOU, TIMES, FormatEvidence, candidates
from util.metrics.results.rows import result_rows
from util.metrics.tables import Detections, GroundTruth

NAMES_IN_FOLDERS = ("detections.json.gz", "detections.json")  # of an evaluation, of a prediction


@dataclass(frozen=True)
class GivenFormat:
    """The format of boxes as the user gave it; what is not given is x, y, width, height in pixels, and is checked."""

    layout: Layout | None = None
    scale: Scale | Literal["any"] = "any"

    @property
    def box_format(self) -> BoxFormat:
        """How the boxes are read."""
        return BoxFormat(self.layout or "xywh", None if self.scale == "any" else self.scale)


@dataclass(frozen=True)
class Results:
    """Detections, and what is to be known of how they were read."""

    detections: Detections
    unknown: Mapping[int, str] = field(default_factory=dict)  # categories that only the file has, by the id they got
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_results(path: Path, truth: GroundTruth, given: GivenFormat = GivenFormat()) -> Results:
    """Read the results file of any tool, or that of a folder of an evaluation or a prediction.

    Raises:
        DetectionsError: a row cannot be read, an image is not in the ground truth, or the boxes are clearly in another
            format; the message names the row, or the flags that read the file.
    """
    path = detections_file(path)
    joined = result_rows(read_json(path), truth, path)
    box_format = given.box_format
    table = tabulate(joined.rows, truth.images, path, box_format.layout)
    boxes = np.array([row["bbox"] for row in joined.rows], dtype=float).reshape(-1, 4)
    evidence = FormatEvidence(boxes, table, truth)
    others = [other for other in candidates(given.layout, given.scale, truth) if other != box_format]
    warnings: list[str] = []
    if suspicion := evidence.suspect(box_format, others):
        text = (
            f"the boxes seem to be {suspicion.likely}, not {box_format}: {suspicion.reason}; give "
            f"{suspicion.likely.flags}, or {box_format.flags} to read them as they are"
        )
        if suspicion.is_sure:
            raise DetectionsError(f"{path}: {text}")
        warnings.append(text)
    elif len(boxes) and (fits := evidence.fits(box_format)).mean() < 0.5:
        warnings.append(
            f"{(~fits).sum()} of {len(fits)} boxes leave their image or are below a pixel, read as {box_format}; "
            f"choose among {', '.join(LAYOUTS)} with --box_format, and the units with --box_scale"
        )
    hits, same = evidence.hits_by_category(box_format)
    if hits >= FEWEST and TIMES * same < hits:
        names = first_few([f"{category} {name}" for category, name in truth.names.items()])
        warnings.append(
            f"{hits} boxes of the ground truth have a detection with an IoU of {SURE_IOU:g}, but only {same} one of "
            f"their category: are the categories those of the ground truth, {names}?"
        )
    highest = table.score.max(initial=0.0)
    if highest > 1:
        warnings.append(
            f"scores reach {highest:.4g}, so they are no probabilities: thresholds are on this scale, and there is no "
            "calibration"
        )
    in_pixels = replace(table, xyxy=box_format.rescale(table.xyxy, evidence.sizes))
    return Results(in_pixels, joined.unknown, joined.notes, tuple(warnings))


def detections_file(path: Path) -> Path:
    """The detections file of a folder; a file is itself."""
    if not path.is_dir():
        return path
    return next((path / name for name in NAMES_IN_FOLDERS if (path / name).is_file()), path / NAMES_IN_FOLDERS[0])
