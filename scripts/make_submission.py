r"""The two files of the TBX11K challenge from saved detections; see docs/evaluation.md.

    python main.py --eval --resume logs/RUN/best.pth --data_path DIR --output_dir logs/RUN_test \
        --options val_list=all_test
    python scripts/make_submission.py logs/RUN_test --data_path DIR

Writes RUN/submission/detections.json, a COCO results list over the ids of all_test.json, and classification.txt, a line
"p_healthy p_sick p_tb" per image in the order of all_test.json.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.split import Split, load_split
from datasets.tbx11k import find_split
from util.command_line import Parser, add_data_argument, hide_aliases
from util.errors import UserError
from util.files import write_whole
from util.logger import echo
from util.metrics.evaluation import DETECTIONS, TRUTH
from util.metrics.files import load_detections
from util.metrics.image_level import image_scores
from util.metrics.overlap import to_xywh
from util.metrics.reports import Report, load_report
from util.metrics.submission import class_probabilities
from util.metrics.tables import Detections, GroundTruth

LIST = "all_test"
WARNING = (
    "warning: a detector does not tell healthy from sick: p_healthy = p_sick on every line, so accuracy, AP and AR of "
    "the classification track mean nothing; AUC (TB), sensitivity and specificity do"
)


def main() -> None:
    """Write both files."""
    args = parse_args()
    split = load_split(*find_split(args.data_path, LIST))
    truth = split.ground_truth()
    report = load_report(args.run)
    require_same_images(args.run, split, report)
    found = load_detections(args.run / DETECTIONS, truth.images)
    if report:
        report.require(found=found, source=args.run / DETECTIONS)
    threshold = report.threshold if report and args.threshold is None else args.threshold
    if threshold is None:
        raise UserError(f"{args.run}: its report has no operating point; give --threshold, chosen on validation images")
    folder = args.output_dir or args.run / "submission"
    contents = {"detections.json": detection_file(found), "classification.txt": class_file(truth, found, threshold)}
    for name, text in contents.items():
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))
        echo(folder / name)
    echo(WARNING, file=sys.stderr)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, help=f"folder of an evaluation on {LIST}")
    add_data_argument(parser)
    add("--threshold", type=float, help="operating point; default: that of the evaluation")
    hide_aliases(add("--output_dir", "--output", type=Path, help="folder to write into; default: RUN/submission"))
    return parser.parse_args()


def require_same_images(run: Path, split: Split, report: Report | None) -> None:
    """Check that a run was evaluated on this list, all of it."""
    evaluated = load_split(run, run / TRUTH)
    if report:
        report.require(truth=evaluated.ground_truth(), source=run / TRUTH)
    advice = f"Evaluate with --options val_list={LIST}"
    split.require_files(evaluated.files_by_id, advice)
    evaluated.require_files(split.files_by_id, advice)


def detection_file(found: Detections) -> str:
    """A COCO results list."""
    columns = (found.image_id.tolist(), found.label.tolist(), to_xywh(found.xyxy).tolist(), found.score.tolist())
    keys = ("image_id", "category_id", "bbox", "score")
    return json.dumps([dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)], separators=(",", ":"))


def class_file(truth: GroundTruth, found: Detections, threshold: float) -> str:
    """A line of three probabilities per image, in the order of the list."""
    images = image_scores(truth, found, {})
    try:
        rows = class_probabilities(images.score, threshold).tolist()
    except ValueError as error:
        raise UserError(f"no probabilities can be made of these scores: {error}") from error
    line = dict(zip(images.ids.tolist(), rows, strict=True))
    return "".join("{:.6f} {:.6f} {:.6f}\n".format(*line[image]) for image in truth.images)


if __name__ == "__main__":
    run_program(main)
