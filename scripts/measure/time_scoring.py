#!/usr/bin/env python
"""Time the twelve COCO metrics of this repository and of pycocotools, from arrays in memory, alternately.

    python scripts/measure/time_scoring.py --num_images 1800 --num_detections 300 --with_boxes 0.1

Boxes and detections are random, with ten detections around each box. Both must give the same metrics: for one category
to the last digit; for the mean over several, pycocotools sums in another order and rounds differently.
"""

import argparse
import io
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scripts.measure.stopwatch import time_alternately
from util.base.console import echo
from util.config.command_line import Parser, hide_aliases
from util.metrics.coco.ap import METRICS, coco_ap
from util.metrics.coco.overlap import to_xywh
from util.metrics.tables import BoxTable, Detections, GroundTruth

SIDE = 512
NEAR = 10
JITTER = 0.12
ROUNDING = 1e-15


def main() -> int:
    """Print the table; exit code 1 where the metrics differ."""
    args = parse_args()
    names = {k: f"category {k}" for k in range(1, args.num_categories + 1)}
    ground_truth, detections = draw(args, names)
    ways = {"here": coco_ap, "pycocotools": pycocotools_ap}
    results = {name: way(ground_truth, detections) for name, way in ways.items()}
    functions = {name: partial(way, ground_truth, detections) for name, way in ways.items()}
    seconds = time_alternately(functions, args.repeats)
    boxes = f"{len(ground_truth)} boxes in {len(names)} categories"
    echo(f"{args.num_images} images x {args.num_detections} detections, {boxes},")
    echo(f"processor seconds, median of {args.repeats} alternating rounds [fastest..slowest]")
    for name, values in seconds.items():
        echo(f"{name:12}{median(values):8.3f} [{min(values):.3f}..{max(values):.3f}]")
    echo(f"{'ratio':12}{median(seconds['pycocotools']) / median(seconds['here']):7.1f}x")
    own, reference = results.values()
    gap = max(abs(own.get(key, -1.0) - reference[key]) for key in METRICS)
    echo(f"largest difference of the {len(METRICS)} metrics: {gap:.2g}")
    return int(gap > (ROUNDING if len(names) > 1 else 0.0))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    hide_aliases(add("--num_images", "--images", type=int, default=1800, help="default: 1800"))
    hide_aliases(add("--num_detections", "--detections", type=int, default=300, help="per image (default: 300)"))
    hide_aliases(add("--num_categories", "--categories", type=int, default=1, help="default: 1, class-agnostic"))
    add("--with_boxes", type=float, default=0.1, help="share of images with boxes (default: 0.1)")
    hide_aliases(add("--repeats", "--rounds", type=int, default=5, help="default: 5"))
    args = parser.parse_args()
    has_none = min(args.num_images, args.num_categories, args.repeats) < 1
    if has_none or args.num_detections < NEAR or not 0 < args.with_boxes <= 1:
        parser.error(f"everything must be at least 1, --num_detections at least {NEAR}, --with_boxes in (0, 1]")
    return args


def draw(args: argparse.Namespace, names: dict[int, str]) -> tuple[GroundTruth, Detections]:
    """Random tables, the same at every call."""
    rng = np.random.default_rng(0)
    images = np.arange(1, args.num_images + 1)
    with_boxes = images[: max(1, round(args.num_images * args.with_boxes))]
    of_box = np.repeat(with_boxes, rng.integers(1, 4, len(with_boxes)))
    boxes = random_boxes(rng, len(of_box))
    labels = rng.integers(1, len(names) + 1, len(of_box))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowd = np.zeros(len(of_box), dtype=bool)
    ids = tuple(images.tolist())
    ground_truth = GroundTruth(ids, of_box, labels, boxes, area, crowd, names, dict.fromkeys(ids, (SIDE, SIDE)), {})
    of_detection = np.repeat(images, args.num_detections)
    predicted = random_boxes(rng, len(of_detection))
    predicted_labels = rng.integers(1, len(names) + 1, len(of_detection))
    score = rng.random(len(of_detection)) / 2
    for image, box, label in zip(of_box.tolist(), boxes, labels.tolist(), strict=True):
        rows = (image - 1) * args.num_detections + rng.choice(args.num_detections, NEAR, replace=False)
        predicted[rows] = box + rng.normal(0, JITTER, (NEAR, 4)) * np.tile(box[2:] - box[:2], 2)
        predicted_labels[rows] = label
        score[rows] = rng.random(NEAR)
    predicted = np.sort(predicted.reshape(-1, 2, 2), axis=1).reshape(-1, 4)  # corners in order
    return ground_truth, Detections(ids, of_detection, predicted_labels, predicted, score)


def random_boxes(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """Random boxes [num, 4] xyxy of all of COCO's sizes."""
    middle = rng.uniform(0, SIDE, (num, 2))
    sides = np.exp(rng.uniform(np.log(16), np.log(200), (num, 2)))
    return np.concatenate([middle - sides / 2, middle + sides / 2], axis=1).clip(0, SIDE)


def pycocotools_ap(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """The metrics by pycocotools; -1 where there is no ground truth."""
    with redirect_stdout(io.StringIO()):
        targets = to_coco(ground_truth, ground_truth, area=ground_truth.area)
        evaluation = COCOeval(targets, to_coco(ground_truth, detections, score=detections.score), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def to_coco(ground_truth: GroundTruth, table: BoxTable, **more: NDArray[np.float64]) -> COCO:
    """Convert a table for pycocotools."""
    xywh = to_xywh(table.xyxy)
    columns = {"image_id": table.image_id, "category_id": table.label, "bbox": xywh, "area": xywh[:, 2] * xywh[:, 3]}
    columns |= more
    rows = enumerate(zip(*(column.tolist() for column in columns.values()), strict=True), start=1)
    converted = COCO()
    converted.dataset = {
        "images": [{"id": i} for i in ground_truth.images],
        "categories": [{"id": k, "name": name} for k, name in ground_truth.names.items()],
        "annotations": [{"id": n, "iscrowd": 0, **dict(zip(columns, row, strict=True))} for n, row in rows],
    }
    converted.createIndex()
    return converted


if __name__ == "__main__":
    run_program(main)
