r"""Make the two files of the TBX11K challenge from saved detections; see docs/evaluation.md.

    python main.py --eval --resume logs/RUN/best.pth --data_path DIR --output_dir logs/RUN_test \
        --options val_list=all_test
    python scripts/make_submission.py logs/RUN_test --data_path DIR

Writes RUN/submission/detections.json, a COCO results list over the ids of all_test.json, and classification.txt, a line
"p_healthy p_sick p_tb" per image in the order of all_test.json.
"""

import argparse
import json
import sys
from operator import methodcaller
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.layout import TBX11K
from datasets.annotations.split import Split, load_split
from util.base.console import echo
from util.base.errors import UserError
from util.base.files import write_atomically
from util.config.command_line import Parser, add_data_argument, hide_aliases
from util.metrics.files import DETECTIONS, GROUND_TRUTH, coco_results, load_detections
from util.metrics.image_level import image_scores
from util.metrics.report.file import Report, load_report
from util.metrics.tables import Detections, GroundTruth

# p_tb just below and at the threshold: above one third it is the largest of the three
BELOW_THRESHOLD = 0.33
AT_THRESHOLD = 0.34

LIST = "all_test"
WARNING = (
    "warning: a detector does not distinguish healthy from sick: p_healthy = p_sick on every line, so accuracy, AP and "
    "AR of the classification track mean nothing; AUC (TB), sensitivity and specificity do"
)


def main() -> None:
    """Write both files."""
    args = parse_args()
    split = load_split(*TBX11K.find_split(args.data_path, LIST))
    truth = split.ground_truth()
    report = load_report(args.run)
    require_same_images(args.run, split, report)
    detections = load_detections(args.run / DETECTIONS, truth.images)
    if report:
        report.require(detections=detections, source=args.run / DETECTIONS)
    threshold = report.threshold if report and args.threshold is None else args.threshold
    if threshold is None:
        raise UserError(f"{args.run}: its report has no operating point; give --threshold, chosen on validation images")
    folder = args.output_dir or args.run / "submission"
    rows = json.dumps(coco_results(detections), separators=(",", ":"))
    contents = {"detections.json": rows, "classification.txt": class_file(truth, detections, threshold)}
    for name, text in contents.items():
        write_atomically(folder / name, methodcaller("write", text.encode()))
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
    evaluated = load_split(run, run / GROUND_TRUTH)
    if report:
        report.require(ground_truth=evaluated.ground_truth(), source=run / GROUND_TRUTH)
    advice = f"Evaluate with --options val_list={LIST}"
    split.require_files(evaluated.files_by_id, advice)
    evaluated.require_files(split.files_by_id, advice)


def class_file(truth: GroundTruth, detections: Detections, threshold: float) -> str:
    """Format a line of three probabilities per image, in the order of the list."""
    images = image_scores(truth, detections, {})
    try:
        rows = class_probabilities(images.score, threshold).tolist()
    except ValueError as error:
        raise UserError(f"these scores cannot be turned into probabilities: {error}") from error
    line = dict(zip(images.ids.tolist(), rows, strict=True))
    return "".join("{:.6f} {:.6f} {:.6f}\n".format(*line[image]) for image in truth.images)


def class_probabilities(score: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Probabilities [I, 3] of healthy, sick and tuberculosis from image scores [I] in [0, 1], -infinity without a box.

    Raises:
        ValueError: the threshold does not lie inside (0, 1), or a score is above 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold must lie between 0 and 1, got {threshold:g}")
    if score.max(initial=0.0) > 1:
        raise ValueError(f"scores must lie in [0, 1], the highest is {score.max():g}")
    score = np.maximum(score, 0.0)
    below = BELOW_THRESHOLD * score / threshold
    above = AT_THRESHOLD + (1 - AT_THRESHOLD) * (score - threshold) / (1 - threshold)
    tuberculosis = np.where(score < threshold, below, above)
    rest = (1 - tuberculosis) / 2
    return np.stack([rest, rest, tuberculosis], axis=1)


if __name__ == "__main__":
    run_program(main)
