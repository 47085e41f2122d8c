"""Score detections against truth; no model, no GPU.

    python scripts/score.py --detections D.json.gz --truth T.json --output R.json --bootstrap 1000
    python scripts/score.py --compare logs/RUN_A logs/RUN_B [--output R.json]

D is a COCO results file, T a COCO-format annotation file, R a JSON object of metrics, with the facts of what was scored
under "evaluated": docs/evaluation.md defines its keys.
An image of the truth without detections is an evaluated image without detections, unless --images says that it was not
evaluated.
"""

import argparse
import json
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
from util.config.rules import operating_target_fits
from util.metrics.files import DETECTIONS, GROUND_TRUTH, load_detections, save_report
from util.metrics.operating_point import choose_threshold
from util.metrics.report.evaluation import evaluate_tables
from util.metrics.report.file import Report, load_report
from util.metrics.report.protocols import MatchedTables, compare, images_with_boxes
from util.metrics.tables import Detections, GroundTruth

DEFAULT_DRAWS = 1000  # of a comparison, which is nothing without them
HEADLINES = ("AP", "AP50", "froc@0.5", "froc_mean", "auc")


def main() -> int:
    """Write the report or the comparison; 2 when that is not possible."""
    args = parse_args()
    try:
        (compare_runs if args.compare else score)(args)
    except (UserError, OSError) as error:
        echo(f"score: {error}", file=sys.stderr)
        return 2
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    add("--class_agnostic_tb", action="store_true", help="report lesions of all classes as one alone")
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
    """One run."""
    truth, images = load_truth(args.truth, args.images)
    found = load(args.detections, truth, images)
    point = None if args.threshold is None else {"rule": "given", "target": 0.0, "threshold": args.threshold}
    evaluation = evaluate_tables(
        images,
        found,
        image_kinds(images.files),
        rule=args.operating_rule,
        target=args.operating_target,
        operating_point=point,
        draws=args.bootstrap or 0,
        seed=args.seed,
    )
    files = {"annotation_file": str(args.truth), "detections_file": str(args.detections)}
    facts = {**evaluation.facts, "list": args.truth.name.split(".json")[0], **files}
    save_report(args.output, {key: value for key, value in evaluation.values.items() if is_wanted(key, args)}, facts)
    echo(f"{evaluation.text}\n{args.output}")


def compare_runs(args: argparse.Namespace) -> None:
    """Two runs, each at the operating point of its own report."""
    truth, images = load_truth(args.truth or args.compare[0] / GROUND_TRUTH, args.images)
    first, second = (study_of(run, truth, images, args) for run in args.compare)
    draws = DEFAULT_DRAWS if args.bootstrap is None else args.bootstrap
    if draws < 1:
        raise UserError("a comparison needs draws: leave --bootstrap out, or give at least 1")
    gaps = {key: gap for key, gap in compare(first, second, draws, args.seed).items() if is_wanted(key, args)}
    echo(f"{args.compare[1]} minus {args.compare[0]}: {len(images.images)} images, {draws} draws")
    shown = {key: gap for key, gap in gaps.items() if key.rpartition("/")[2] in HEADLINES}
    width = max(map(len, shown), default=0)
    echo(f"{'':{width}}{'difference':>12}  95 % interval        p")
    for key, gap in shown.items():
        echo(f"{key:{width}} {gap.value:+11.4f}  [{gap.low:+.4f}, {gap.high:+.4f}]  {gap.p:.3f}")
    if args.output:
        values = {f"{key}/difference": gap.value for key, gap in gaps.items()}
        values |= {f"{key}/difference/ci95": [gap.low, gap.high] for key, gap in gaps.items()}
        save_report(args.output, values | {f"{key}/difference/p": gap.p for key, gap in gaps.items()})
        echo(args.output)


def study_of(run: Path, truth: GroundTruth, images: GroundTruth, args: argparse.Namespace) -> MatchedTables:
    """A run's detections, with the operating point of its report, the one given, or one chosen on these images."""
    report = load_report(run)
    require_truth_of(run, truth, report)
    found = load(run / DETECTIONS if run.is_dir() else run, truth, images, report)
    study = MatchedTables(images, found, image_kinds(images.files))
    threshold = report.threshold if report and args.threshold is None else args.threshold
    if threshold is None:
        threshold = choose_threshold(
            images, study.deduplicated, study.image_scores, args.operating_rule, args.operating_target
        )
    return study.at(threshold)


def require_truth_of(run: Path, truth: GroundTruth, report: Report | None) -> None:
    """The ids of each list of TBX11K begin with 1, so only file names tell whether a run saw these images."""
    if not (run / GROUND_TRUTH).is_file():
        return
    theirs = load_split(run, run / GROUND_TRUTH).ground_truth()
    if report:
        report.require(ground_truth=theirs, source=run / GROUND_TRUTH)
    other = [name for image, name in theirs.files.items() if truth.files.get(image, name) != name]
    if other:
        raise UserError(
            f"{run}: was evaluated on other images than the truth lists: {len(other)} file names differ, first "
            f"{first_few(other)}; compare runs that were evaluated on the same list"
        )


def load_truth(path: Path, which: str) -> tuple[GroundTruth, GroundTruth]:
    """The truth of all images of the file, and of those that were evaluated."""
    split = load_split(path.parent, path)
    is_wrong = ~(np.isfinite(split.xywh).all(axis=1) & (split.xywh[:, 2:] > 0).all(axis=1) & np.isfinite(split.area))
    if is_wrong.any():
        first = int(is_wrong.argmax())
        where = f"on {split.file_names[split.image_of_box[first]]}: {split.xywh[first].tolist()}"
        raise UserError(
            f"{path}: {int(is_wrong.sum())} boxes are not finite or have no width or height, first {where}; nothing "
            "could ever find them: correct or remove them"
        )
    if len(set(split.names.values())) < len(split.names):
        raise UserError(
            f"{path}: a category name occurs more than once; figures are told by name, so give each its own"
        )
    truth = split.ground_truth()
    if which == "all":
        return truth, truth
    return truth, images_with_boxes(truth) if which == "tb" else truth.on(listed(Path(which), truth))


def listed(path: Path, truth: GroundTruth) -> list[int]:
    """The image ids that a file lists, as ids or file names, one per line or as a JSON list."""
    if not path.is_file():
        raise UserError(f"--images {path}: expected all, tb, or a file that lists image names or ids")
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as text or as a JSON list ({error}); write a name per line") from error
    entries = [str(entry).strip() for entry in entries if str(entry).strip()]
    ids = {**{name: image for image, name in truth.files.items()}, **{str(image): image for image in truth.images}}
    unknown = [entry for entry in entries if entry not in ids]
    if unknown or not entries:
        what = (
            f"{len(unknown)} entries are no image of the truth: {first_few(unknown)}" if unknown else "lists no image"
        )
        raise UserError(f"{path}: {what}; write a file name or an id of the truth file per line")
    return [ids[entry] for entry in entries]


def load(path: Path, truth: GroundTruth, images: GroundTruth, report: Report | None = None) -> Detections:
    """The detections on the evaluated images, and a warning where the file does not seem to fit.

    Raises:
        UserError: they are not those of the report beside them.
    """
    found = load_detections(path, truth.images)
    if report:
        report.require(detections=found, source=path)
    found = found.on(images.images)
    empty = len(images.images) - len(np.unique(found.image_id))
    if empty:
        warn(
            f"{path}: {empty} of {len(images.images)} images have no detection; they count as evaluated images without "
            "one. If they were not evaluated, say so with --images"
        )
    strange = np.unique(found.label[~np.isin(found.label, list(truth.names))]).tolist()
    if strange:
        warn(f"{path}: categories {first_few(strange)} are none of the truth; their detections are left out")
    return found


def warn(text: str) -> None:
    """What may be a mistake, but need not."""
    echo(f"warning: {text}", file=sys.stderr)


def is_wanted(key: str, args: argparse.Namespace) -> bool:
    """Whether a key belongs to the views that the flags ask for."""
    if args.tb_only_eval and not key.startswith("tb_only/"):
        return False
    return not (args.class_agnostic_tb and "/per_class/" in key)


if __name__ == "__main__":
    run_program(main)
