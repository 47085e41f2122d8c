"""Draw the last evaluation of a run: python scripts/plot_evaluation.py logs/RUN [--data_path DIR].

Writes froc, precision_recall, roc, scores, confusion and calibration into RUN/plots, and with the data folder also
worst_misses and worst_false_alarms on the X-rays; each as PNG and SVG.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np
from matplotlib.figure import Figure

from datasets.annotations.split import Split, load_split
from datasets.annotations.tbx11k import image_kinds
from datasets.build import build_split
from datasets.dataset import load_image
from util.base.console import echo
from util.config import load_run_config
from util.config.command_line import Parser, add_data_argument, hide_aliases
from util.metrics.files import DETECTIONS, GROUND_TRUTH, load_detections
from util.metrics.report.file import load_report
from util.metrics.report.gallery import worst_false_positives, worst_misses
from util.metrics.report.protocols import MatchedTables
from util.plots.contact_sheet import annotate_detections, choose_detections, draw_sheet
from util.plots.evaluation import (
    draw_calibration,
    draw_confusion,
    draw_froc,
    draw_precision_recall,
    draw_roc,
    draw_scores,
)

ADVICE = "Draw from the folder of an evaluation whose config.py names its val_list, or leave --data_path out"
SCORE = 0.3  # drawn from here on where there is no operating point


def main() -> None:
    """Write the plots."""
    args = parse_args()
    folder = args.output_dir or args.run / "plots"
    study = load_study(args.run, args.detections, args.truth)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in plots(study, args):
        for ending in ("png", "svg"):
            figure.savefig(folder / f"{name}.{ending}")
        echo(folder / f"{name}.png")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, help="folder of a run, with its report, detections and truth")
    add_data_argument(parser, is_required=False)
    add("--detections", type=Path, help="COCO results file; default: that of the run")
    add("--truth", type=Path, help="COCO-format file; default: that of the run")
    hide_aliases(add("--num_images", "--num", type=int, default=8, help="X-rays per sheet (default: 8)"))
    add("--bootstrap", type=int, default=500, help="draws for the band of the FROC curve (default: 500; 0: none)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    hide_aliases(add("--output_dir", "--output", type=Path, help="folder to write into; default: RUN/plots"))
    args = parser.parse_args()
    if args.num_images < 1 or args.bootstrap < 0:
        parser.error("--num_images must be at least 1 and --bootstrap at least 0")
    return args


def load_study(run: Path, detections: Path | None, truth: Path | None) -> MatchedTables:
    """The evaluation of a run, at its operating point; its own tables must be those of its report."""
    report = load_report(run)
    there = load_split(run, truth or run / GROUND_TRUTH).ground_truth()
    found = load_detections(detections or run / DETECTIONS, there.images)
    if report and truth is None:
        report.require(ground_truth=there, source=run / GROUND_TRUTH)
    if report and detections is None:
        report.require(detections=found, source=run / DETECTIONS)
    return MatchedTables(there, found, image_kinds(there.files), report.threshold if report else None)


def plots(study: MatchedTables, args: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    """What can be drawn, by name."""
    yield "froc", draw_froc(study, args.bootstrap, args.seed)
    yield "precision_recall", draw_precision_recall(study)
    yield "scores", draw_scores(study)
    for name, draw in {"roc": draw_roc, "confusion": draw_confusion, "calibration": draw_calibration}.items():
        figure = draw(study)
        if figure is not None:
            yield name, figure
    if args.data_path is not None:
        config = load_run_config(args.run)
        split = build_split(config.data, args.data_path, "val", num_classes="auto", opens_images=False)
        split.require_files(study.ground_truth.files, ADVICE)
        yield from sheets(study, split, args.num_images)


def sheets(study: MatchedTables, split: Split, num: int) -> Iterator[tuple[str, Figure]]:
    """Draw the worst misses and false positives on X-rays, chosen and counted at the score threshold."""
    score = SCORE if study.threshold is None else study.threshold
    study = study.at(score)
    kinds = {
        "worst_misses": ("Worst misses", worst_misses(study, num)),
        "worst_false_alarms": ("Worst false positives", worst_false_positives(study, num)),
    }
    found = choose_detections(study.known, score)
    for name, (title, images) in kinds.items():
        if images:
            pixels = {i: np.asarray(load_image(split, split.image_ids.tolist().index(i))) for i in images}
            tiles = [annotate_detections(pixels[i], study.ground_truth, found, i, score) for i in images]
            yield name, draw_sheet(tiles, f"{title} at score threshold {score:.3g}")


if __name__ == "__main__":
    run_program(main)
