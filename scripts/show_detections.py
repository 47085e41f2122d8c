"""Draw what a run found beside what is there: python scripts/show_detections.py logs/RUN --data_path DIR."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np

from datasets.annotations.split import Split
from datasets.build import build_split
from datasets.dataset import load_image
from util.base.console import echo
from util.config import load_run_config
from util.config.command_line import Parser, add_data_argument, hide_aliases
from util.metrics.files import load_detections
from util.metrics.report.file import load_report
from util.metrics.report.protocols import MatchedTables
from util.metrics.results.load import detections_file
from util.plots.contact_sheet import annotate_detections, choose_detections, choose_images, draw_sheet
from util.plots.style import save_figure

SCORE = 0.3  # where a run has no operating point


def main() -> None:
    """Write RUN/detections.png."""
    args = parse_args()
    output = args.output or args.run / "detections.png"
    draw(args.run, args.data_path, args.num_images, args.threshold, output)
    echo(output)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, help="folder of a run, with its config.py and detections.json.gz")
    add_data_argument(parser)
    hide_aliases(add("--num_images", "--num", type=int, default=12, help="images on the sheet (default: 12)"))
    threshold = (
        f"score threshold (default: the operating point of the run, else {SCORE}); where an image has no detection "
        "above it, the best one is drawn dotted and not counted"
    )
    hide_aliases(add("--threshold", "--score", type=float, help=threshold))
    add("--output", type=Path, help="picture to write; default: RUN/detections.png")
    args = parser.parse_args()
    if args.num_images < 1:
        parser.error(f"--num_images must be at least 1, got {args.num_images}")
    return args


def draw(run: Path, data_path: Path, num: int, score: float | None, output: Path) -> None:
    """Choose the images, mark the boxes, write the picture; by default at the operating point of the run.

    Raises:
        UserError: the images of the data folder or the detections are not those of the run's report.
    """
    report = load_report(run)
    score = score if score is not None or report is None else report.threshold
    score = SCORE if score is None else score
    split = validation_split(run, data_path)
    truth = split.ground_truth()
    path = detections_file(run)
    if report:
        report.require(ground_truth=truth, source=split.annotation_file)
    found = load_detections(path, truth.images)
    if report:
        report.require(detections=found, source=path)
    found = choose_detections(MatchedTables(truth, found, {}).known, score)
    images = choose_images(truth, found, num, score)
    pixels = {i: np.asarray(load_image(split, truth.images.index(i))) for i in images}
    tiles = [annotate_detections(pixels[i], truth, found, i, score) for i in images]
    title = f"{run.resolve().name} on {split.name}: detections at score threshold {score:.3g}"
    save_figure(draw_sheet(tiles, title), output)


def validation_split(run: Path, data_path: Path) -> Split:
    """The images and boxes that the run was evaluated on."""
    config = load_run_config(run)
    # of all images only those on the sheet are read
    return build_split(config.data, data_path, "val", num_classes="auto", opens_images=False)


if __name__ == "__main__":
    run_program(main)
