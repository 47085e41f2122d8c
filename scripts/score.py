"""Evaluate detections against ground truth; no model, no GPU.

    python scripts/score.py --detections D.json.gz --truth T.json --output R.json --bootstrap 1000
    python scripts/score.py --compare logs/RUN_A logs/RUN_B [--output R.json]

D is a COCO results file, T a COCO-format annotation file, R a JSON object of metrics, with the facts of the evaluation
under "evaluated": docs/evaluation.md defines its keys.
An image of the ground truth without detections counts as evaluated, unless --images leaves it out.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.annotations.split import load_split
from datasets.annotations.tbx11k import image_kinds
from util.base.console import echo
from util.base.errors import UserError
from util.base.text import first_few
from util.config.command_line import Parser
from util.config.rules import operating_target_fits
from util.metrics.files import DETECTIONS, GROUND_TRUTH, load_detections, load_image_list, save_report
from util.metrics.operating_point import choose_threshold
from util.metrics.report.comparison import compare, comparison_metrics, format_comparison
from util.metrics.report.evaluation import evaluate_tables
from util.metrics.report.file import Report, load_report
from util.metrics.report.protocols import MatchedTables, images_with_boxes
from util.metrics.tables import Detections, GroundTruth

DEFAULT_DRAWS = 1000  # of a comparison


def main() -> None:
    """Write the report or the comparison."""
    args = parse_args()
    (compare_runs if args.compare else score)(args)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--detections", type=Path, help="COCO results file, .json or .json.gz")
    add("--truth", type=Path, help="COCO-format annotation file; of a comparison, by default that of RUN_A")
    add("--output", type=Path, help="JSON file to write")
    add("--images", default="all", help="which were evaluated: all, tb (those with a box), or a file of names or ids")
    add("--bootstrap", type=int, metavar="N", help="draws for 95 %% intervals (default: none; in comparisons 1000)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--compare", nargs=2, type=Path, metavar=("RUN_A", "RUN_B"), help="folders of runs, or detections files")
    add("--threshold", type=float, help="operating point, chosen elsewhere; by default one is chosen on these images")
    add(
        "--operating_rule", choices=["sensitivity", "false_alarms", "youden"], default="youden", help="how it is chosen"
    )
    add("--operating_target", type=float, default=0.9, help="of sensitivity or false_alarms (default: 0.9)")
    add("--tb_only_eval", action="store_true", help="report the view of images with boxes alone")
    add("--class_agnostic_tb", action="store_true", help="report class-agnostic metrics alone")
    args = parser.parse_args()
    if not args.compare and not (args.detections and args.truth and args.output):
        parser.error("give --detections, --truth and --output, or --compare RUN_A RUN_B")
    if args.compare and args.detections:
        parser.error("--compare names its detections itself; leave --detections out")
    if args.bootstrap is not None and args.bootstrap < 0:
        parser.error(f"--bootstrap must be at least 0, got {args.bootstrap}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    if args.threshold is not None and not np.isfinite(args.threshold):
        parser.error(f"--threshold must be a finite number, got {args.threshold}")
    problem = operating_target_fits(args.operating_rule, args.operating_target)
    if problem or not 0 <= args.operating_target < np.inf:
        parser.error(problem or f"--operating_target must be a number from 0 on, got {args.operating_target}")
    return args


def score(args: argparse.Namespace) -> None:
    """Evaluate one run."""
    truth, images = load_truth(args.truth, args.images)
    detections = load(args.detections, truth, images)
    point = None if args.threshold is None else {"rule": "given", "target": 0.0, "threshold": args.threshold}
    evaluation = evaluate_tables(
        images,
        detections,
        image_kinds(images.files),
        rule=args.operating_rule,
        target=args.operating_target,
        operating_point=point,
        draws=args.bootstrap or 0,
        seed=args.seed,
    )
    files = {"annotation_file": str(args.truth), "detections_file": str(args.detections)}
    facts = {**evaluation.facts, "list": args.truth.name.split(".json")[0], **files}
    save_report(args.output, {key: value for key, value in evaluation.values.items() if is_selected(key, args)}, facts)
    echo(f"{evaluation.text}\n{args.output}")


def compare_runs(args: argparse.Namespace) -> None:
    """Compare two runs, each at the operating point of its own report."""
    truth, images = load_truth(args.truth or args.compare[0] / GROUND_TRUTH, args.images)
    first, second = (load_run(run, truth, images, args) for run in args.compare)
    draws = DEFAULT_DRAWS if args.bootstrap is None else args.bootstrap
    if draws < 1:
        raise UserError("a comparison needs draws: leave --bootstrap out, or give at least 1")
    gaps = {key: gap for key, gap in compare(first, second, draws, args.seed).items() if is_selected(key, args)}
    echo(f"{args.compare[1]} minus {args.compare[0]}: {len(images.images)} images, {draws} draws")
    echo(format_comparison(gaps))
    if args.output:
        save_report(args.output, comparison_metrics(gaps))
        echo(args.output)


def load_run(run: Path, truth: GroundTruth, images: GroundTruth, args: argparse.Namespace) -> MatchedTables:
    """Load a run's detections, with the operating point of its report, the given one, or one chosen on these images."""
    report = load_report(run)
    require_same_truth(run, truth, report)
    detections = load(run / DETECTIONS if run.is_dir() else run, truth, images, report)
    tables = MatchedTables(images, detections, image_kinds(images.files))
    threshold = report.threshold if report and args.threshold is None else args.threshold
    if threshold is None:
        threshold = choose_threshold(
            images, tables.deduplicated, tables.image_scores, args.operating_rule, args.operating_target
        )
    return tables.at(threshold)


def require_same_truth(run: Path, truth: GroundTruth, report: Report | None) -> None:
    """Check by file names that a run was evaluated on these images: the ids of each list of TBX11K begin with 1."""
    if not (run / GROUND_TRUTH).is_file():
        return
    evaluated = load_split(run, run / GROUND_TRUTH).ground_truth()
    if report:
        report.require(ground_truth=evaluated, source=run / GROUND_TRUTH)
    other = [name for image, name in evaluated.files.items() if truth.files.get(image, name) != name]
    if other:
        raise UserError(
            f"{run}: was evaluated on other images than the ground truth lists: {len(other)} file names differ, first "
            f"{first_few(other)}; compare runs that were evaluated on the same list"
        )


def load_truth(path: Path, which: str) -> tuple[GroundTruth, GroundTruth]:
    """Load the ground truth of all images of the file, and of those that were evaluated."""
    split = load_split(path.parent, path)
    is_invalid = ~(np.isfinite(split.xywh).all(axis=1) & (split.xywh[:, 2:] >= 0).all(axis=1) & np.isfinite(split.area))
    if is_invalid.any():
        first = int(is_invalid.argmax())
        where = f"on {split.file_names[split.image_of_box[first]]}: {split.xywh[first].tolist()}"
        raise UserError(
            f"{path}: {int(is_invalid.sum())} boxes are not finite or have a negative side, first {where}; no "
            "detection can match them: correct or remove them"
        )
    if split.num_empty.any():
        warn(f"{path}: {split.num_empty.sum()} boxes have no width or no height in their image and are left out")
    if len(set(split.names.values())) < len(split.names):
        raise UserError(
            f"{path}: a category name occurs more than once; metrics are named by category, so give each its own"
        )
    truth = split.ground_truth()
    if which == "all":
        return truth, truth
    if which == "tb":
        return truth, images_with_boxes(truth)
    if not Path(which).is_file():
        raise UserError(f"--images {which}: expected all, tb, or a file that lists image names or ids")
    return truth, truth.on(load_image_list(Path(which), truth))


def load(path: Path, truth: GroundTruth, images: GroundTruth, report: Report | None = None) -> Detections:
    """Load the detections on the evaluated images, and warn where the file does not seem to fit.

    Raises:
        UserError: they are not those of the report beside them.
    """
    detections = load_detections(path, truth.images)
    if report:
        report.require(detections=detections, source=path)
    detections = detections.on(images.images)
    empty = len(images.images) - len(np.unique(detections.image_id))
    if empty:
        warn(
            f"{path}: {empty} of {len(images.images)} images have no detection; they count as evaluated. If they were "
            "not, leave them out with --images"
        )
    unknown = np.unique(detections.label[~np.isin(detections.label, list(truth.names))]).tolist()
    if unknown:
        warn(f"{path}: categories {first_few(unknown)} are not in the ground truth; their detections are left out")
    return detections


def warn(text: str) -> None:
    """Print a warning."""
    echo(f"warning: {text}", file=sys.stderr)


def is_selected(key: str, args: argparse.Namespace) -> bool:
    """Whether the flags ask for a key of the report."""
    if args.tb_only_eval and not key.startswith("tb_only/"):
        return False
    return not (args.class_agnostic_tb and "/per_class/" in key)


if __name__ == "__main__":
    run_program(main)
