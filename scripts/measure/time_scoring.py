#!/usr/bin/env python
"""How long the twelve COCO figures take here and by pycocotools, from arrays in memory, in turns.

    python scripts/measure/time_scoring.py --num_images 1800 --num_detections 300 --with_boxes 0.1

Boxes and detections are drawn by chance, ten detections about each box. Both must give the same figures: those of one
category to the last digit; in the mean over several pycocotools adds up in another order, and rounds otherwise.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
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
    """Print the table; 1 where the figures differ."""
    args = parse_args()
    names = {k: f"category {k}" for k in range(1, args.num_categories + 1)}
    truth, found = draw(args, names)
    ways = {"here": coco_ap, "pycocotools": official}
    seconds, results = in_turns(ways, truth, found, args.repeats)
    echo(f"{args.num_images} images x {args.num_detections} detections, {len(truth)} boxes in {len(names)} categories,")
    echo(f"processor seconds, median of {args.repeats} rounds in turns [fastest..slowest]")
    for name, own in seconds.items():
        echo(f"{name:12}{median(own):8.3f} [{min(own):.3f}..{max(own):.3f}]")
    echo(f"{'ratio':12}{median(seconds['pycocotools']) / median(seconds['here']):7.1f}x")
    ours, theirs = results.values()
    apart = max(abs(ours.get(key, -1.0) - theirs[key]) for key in METRICS)
    echo(f"largest difference of the {len(METRICS)} metrics: {apart:.2g}")
    return int(apart > (ROUNDING if len(names) > 1 else 0.0))


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
    """Tables by chance, the same each time."""
    rng = np.random.default_rng(0)
    images = np.arange(1, args.num_images + 1)
    with_boxes = images[: max(1, round(args.num_images * args.with_boxes))]
    of_box = np.repeat(with_boxes, rng.integers(1, 4, len(with_boxes)))
    boxes = boxes_by_chance(rng, len(of_box))
    labels = rng.integers(1, len(names) + 1, len(of_box))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowd = np.zeros(len(of_box), dtype=bool)
    ids = tuple(images.tolist())
    truth = GroundTruth(ids, of_box, labels, boxes, area, crowd, names, dict.fromkeys(ids, (SIDE, SIDE)), {})
    of_found = np.repeat(images, args.num_detections)
    said = boxes_by_chance(rng, len(of_found))
    given = rng.integers(1, len(names) + 1, len(of_found))
    score = rng.random(len(of_found)) / 2
    for image, box, label in zip(of_box.tolist(), boxes, labels.tolist(), strict=True):
        rows = (image - 1) * args.num_detections + rng.choice(args.num_detections, NEAR, replace=False)
        said[rows] = box + rng.normal(0, JITTER, (NEAR, 4)) * np.tile(box[2:] - box[:2], 2)
        given[rows] = label
        score[rows] = rng.random(NEAR)
    said = np.concatenate([np.minimum(said[:, :2], said[:, 2:]), np.maximum(said[:, :2], said[:, 2:])], axis=1)
    return truth, Detections(ids, of_found, given, said, score)


def boxes_by_chance(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """[num, 4] xyxy of all of COCO's sizes."""
    middle = rng.uniform(0, SIDE, (num, 2))
    sides = np.exp(rng.uniform(np.log(16), np.log(200), (num, 2)))
    return np.concatenate([middle - sides / 2, middle + sides / 2], axis=1).clip(0, SIDE)


def in_turns(
    ways: dict[str, Callable], truth: GroundTruth, found: Detections, rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Per way the processor seconds of each round, and what came out."""
    seconds = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way(truth, found)
            seconds[name].append(time.process_time() - start)
    return seconds, results


def official(truth: GroundTruth, found: Detections) -> dict[str, float]:
    """The figures by pycocotools; -1 where there is no truth."""
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truth, truth, area=truth.area), index(truth, found, score=found.score), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def index(truth: GroundTruth, table: BoxTable, **columns: NDArray[np.float64]) -> COCO:
    """A table as pycocotools wants it."""
    made = COCO()
    xywh = to_xywh(table.xyxy)
    columns = {
        "image_id": table.image_id,
        "category_id": table.label,
        "bbox": xywh,
        "area": xywh[:, 2] * xywh[:, 3],
        **columns,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    rows = [{"id": n, "iscrowd": 0, **dict(zip(columns, row, strict=True))} for n, row in enumerate(values, start=1)]
    categories = [{"id": k, "name": name} for k, name in truth.names.items()]
    made.dataset = {"images": [{"id": i} for i in truth.images], "categories": categories, "annotations": rows}
    made.createIndex()
    return made


if __name__ == "__main__":
    run_program(main)
