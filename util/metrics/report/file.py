"""report.json: the metrics of an evaluation, flat, and under one key the facts: what was evaluated, and how.

Programs that show a metric read its images and weights from the same file. Reports of older versions have no facts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from util.base.errors import UserError
from util.base.numbers import number
from util.metrics.tables import BoxTable, Detections, GroundTruth

REPORT = "report.json"
FACTS = "evaluated"  # the one key that is no metric
REQUIRED_FACTS: dict[str, type] = {
    **{"list": str, "images": int, "images_with_boxes": int, "boxes": int, "boxes_by_category": dict},
    **{"category_names": dict, "ground_truth": str, "detections": str, "operating_point": dict},
}
OPTIONAL_FACTS: dict[str, type] = {
    **{"annotation_file": str, "image_folder": str, "detections_file": str, "config": str},
    **{"checkpoint": str, "epoch": int, "step": int, "weights": str, "version": str},
}
DESCRIBED_KEYS = {"list", "images", "images_with_boxes", "boxes"}
VALUE_TYPES: dict[str, set[type]] = {
    "boxes_by_category": {int},
    "category_names": {str},
    "operating_point": {str, float},
}
AGAIN = "evaluate the run again"


@dataclass(frozen=True)
class Report:
    """A report that was read."""

    path: Path
    metrics: Mapping[str, float | list[float]]  # values, and 95 % intervals as [low, high]
    facts: Mapping[str, Any] = field(default_factory=dict)  # docs/evaluation.md lists them; empty in older reports

    @property
    def threshold(self) -> float | None:
        """The operating point of its metrics; None where there was none."""
        return number(self.metrics.get("operating_point/threshold"))

    def require(
        self, *, ground_truth: GroundTruth | None = None, detections: Detections | None = None, source: object
    ) -> None:
        """Refuse ground truth or detections other than those of the metrics; an older report accepts all.

        Args:
            ground_truth: of all images of `source`.
            detections: all of `source`.
            source: where they come from, for the message.

        Raises:
            UserError: the fingerprints differ.
        """
        tables = {"ground_truth": ground_truth, "detections": detections}
        for name, table in tables.items():
            if self.facts and table is not None and fingerprint(table) != self.facts[name]:
                raise UserError(
                    f"{source}: is not the {name.replace('_', ' ')} whose metrics {self.path} holds, that of "
                    f"{describe_images(self.facts)}: one of the two files was replaced or changed; {AGAIN}"
                )


def load_report(folder: Path) -> Report | None:
    """The report of a folder; None where there is none.

    Raises:
        UserError: it is no JSON object of metrics and facts.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {AGAIN}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object with the metrics of an evaluation; {AGAIN}")
    facts = values.pop(FACTS, {})
    wrong = next((key for key, value in values.items() if not _is_metric(value)), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong!r} is {values[wrong]!r:.40}, expected a number or [low, high]; {AGAIN}")
    if wrong := _problem(facts):
        raise UserError(f"{path}: {FACTS!r} {wrong}; {AGAIN}")
    return Report(path, values, facts)


def facts_of_tables(truth: GroundTruth, detections: Detections) -> dict[str, Any]:
    """Facts of a report that follow from the two tables."""
    fingerprints = {"ground_truth": fingerprint(truth), "detections": fingerprint(detections)}
    return {
        **count_boxes(truth),
        "category_names": {str(k): truth.names[k] for k in sorted(truth.names)},
        **fingerprints,
    }


def count_boxes(truth: GroundTruth) -> dict[str, Any]:
    """Count images, images with boxes, boxes, and boxes per category id. A crowd region is no box."""
    kept = ~truth.is_crowd
    labels = truth.label[kept]
    return {
        "images": len(truth.images),
        "images_with_boxes": len(np.unique(truth.image_id[kept])),
        "boxes": len(labels),
        "boxes_by_category": {str(k): int((labels == k).sum()) for k in sorted(truth.names)},
    }


def describe_images(facts: Mapping[str, Any]) -> str:
    """Describe the evaluated images in words; `facts` has DESCRIBED_KEYS, as the lists in a row of kind "start" do."""
    return f"{facts['list']}, {facts['images']} images, {facts['images_with_boxes']} with boxes, {facts['boxes']} boxes"


def fingerprint(table: BoxTable) -> str:
    """Compute a digest of ground truth or detections, equal before they are written and after they are read.

    That of ground truth covers images, file names, categories and boxes, in whatever order; the order of detections
    counts, as metrics take equal scores in this order. Coordinates count as float32: a file states x, y, width, height.
    """
    columns: list[NDArray] = [table.image_id.astype("<i8"), table.label.astype("<i8"), *map(_rounded, table.xyxy.T)]
    if isinstance(table, GroundTruth):
        columns += [table.is_crowd.astype("<i8"), _rounded(table.area)]
        order = np.lexsort(columns)
        columns = [column[order] for column in columns]
    elif isinstance(table, Detections):
        columns.append(table.score.astype("<f8"))
    digest = hashlib.sha256(json.dumps(_named(table)).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _rounded(values: NDArray) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype("<f4") + np.float32(0.0)  # -0 becomes 0


def _named(table: BoxTable) -> list[Sequence[Any]]:
    if isinstance(table, GroundTruth):
        return [[(i, table.files.get(i)) for i in sorted(table.images)], sorted(table.names.items()), [len(table)]]
    return [[len(table)]]


def _is_metric(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(number(part) is not None for part in parts) and (parts is not value or len(parts) == 2)


def _problem(facts: Any) -> str:
    """Describe the first error in the facts of a report; "" where there is none."""
    if not isinstance(facts, dict):
        return f"is a {type(facts).__name__}, expected an object"
    kinds = (
        {**REQUIRED_FACTS, **{name: kind for name, kind in OPTIONAL_FACTS.items() if name in facts}} if facts else {}
    )
    for name, kind in kinds.items():
        if type(facts.get(name)) is not kind:
            return f"has {facts.get(name)!r:.40} as {name!r}, expected a {kind.__name__}"
        types = VALUE_TYPES.get(name)
        if types and not all(type(value) in types for value in facts[name].values()):
            return f"has {facts[name]!r:.40} as {name!r}, expected values of another type"
    return ""
