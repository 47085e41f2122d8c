"""Use a trained model on image files: boxes, a score for each image, images with boxes, and an HTML page.

    python scripts/predict.py --checkpoint logs/RUN/best.pth IMAGES [IMAGES ...] --output_dir OUT

IMAGES are files, folders, zip archives or patterns; PNG, JPEG, TIFF and DICOM. The checkpoint is all it takes. Run the
same command again after an interruption: images that are done are skipped. docs/predict.md says what OUT gets.

Exit codes: 0 all done; 3 all done but for images without a result, which are listed; 2 a mistake that you can fix.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import torch

from datasets.annotations.split import load_file_names
from datasets.annotations.tbx11k import CATEGORIES
from models import load_detector
from models.export import load_onnx_detector
from models.inference import MERGE_IOU, Detector
from util.base.console import echo, print_note
from util.base.processes import usable_cores
from util.base.text import first_few, printable
from util.config.command_line import Parser, add_depth_argument, add_device_argument, hide_aliases
from util.detection.fusion import METHODS
from util.distributed.collectives import choose_device_type
from util.distributed.exit_codes import FINISHED, INCOMPLETE
from util.predict import (
    Listing,
    OutputSettings,
    list_images,
    match_image_ids,
    number_images,
    predict_images,
    require_prediction_folder,
    survey_images,
)
from util.predict.outputs import EXCLUDED_FILE, UNREADABLE_FILE
from util.predict.survey import Survey

SCORE = 0.3  # where a checkpoint has no operating point
MOST_THREADS = 16
MOST_WARNINGS = 10  # unreadable files that are named
DRAW = ("none", "positives", "all")


def main(arguments: list[str] | None = None) -> int:
    """Predict, write everything, print what came of it; the exit code."""
    return INCOMPLETE if predict(parse_args(arguments)) else FINISHED


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    images = "files, folders, zip archives, patterns such as 'a/**/*.png'; not right after --scales or --options"
    add("inputs", nargs="*", metavar="IMAGES", help=images)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="CKPT",
        help="checkpoint of a run; several, ending in .pth, answer together if they know the same categories",
    )
    model.add_argument("--onnx", type=Path, metavar="FILE", help="instead: a file of scripts/export.py, on the CPU")
    add("--output_dir", type=Path, required=True, help="folder to write into; the same one goes on where it was")
    add("--annotations", type=Path, help="COCO-format file: only its images are predicted, under its image ids")
    threshold = f"score from which on a box counts (default: the operating point, else {SCORE})"
    hide_aliases(add("--threshold", "--score", type=float, help=threshold))
    add("--draw", choices=DRAW, default="positives", help="which images get a PNG with boxes (default: positives)")
    add("--batch_size", type=int, help="images of one size at once (default: as many as fit, measured with the first)")
    add_device_argument(parser)
    add_depth_argument(parser)
    frame = "apply: turn images by their orientation tags, boxes are in pixels of the turned images (default: stored)"
    add("--orientation", choices=("stored", "apply"), default="stored", help=frame)
    add("--force", action="store_true", help="predict DICOM files that are no frontal chest radiographs, too")
    add("--flip", action="store_true", help="detect on each image mirrored too, and merge the detections")
    add(
        "--scales",
        type=int,
        nargs="+",
        default=[],
        metavar="PIXELS",
        help="detect on each image with these shorter sides, and merge (default: that of the config)",
    )
    add(
        "--merge",
        choices=METHODS,
        default="wbf",
        help="average boxes that overlap, or keep the strongest (default: wbf)",
    )
    add("--merge_iou", type=float, default=MERGE_IOU, help=f"overlap beyond which they are one (default: {MERGE_IOU})")
    add("--options", nargs="+", default=[], metavar="KEY=VALUE", help="change knobs of the config in the checkpoint")
    args = parser.parse_args(arguments)
    if args.onnx:
        if args.scales or args.options or args.device == "cuda":
            parser.error("--onnx takes no --scales, --options or --device cuda: the file is what it is")
        args.device = "cpu"
    args.models, more = ([args.onnx], []) if args.onnx else split_checkpoints(args.checkpoint)
    args.inputs = more + args.inputs
    if not args.inputs:
        parser.error("the following arguments are required: IMAGES")
    if args.batch_size is not None and args.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, got {args.batch_size}")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f"--threshold must lie in [0, 1], got {args.threshold}")
    if not 0 < args.merge_iou < 1:
        parser.error(f"--merge_iou must lie between 0 and 1, got {args.merge_iou}")
    if any(not 32 <= scale <= 16_384 for scale in args.scales) or len(set(args.scales)) < len(args.scales):
        parser.error(f"--scales must be different sizes from 32 to 16384, got {args.scales}")
    return args


def split_checkpoints(values: list[str]) -> tuple[list[Path], list[str]]:
    """What follows --checkpoint: the first is a checkpoint, more are while they end in .pth, the rest are images."""
    num = next((n for n, text in enumerate(values) if n and not text.endswith(".pth")), len(values))
    return [Path(text) for text in values[:num]], values[num:]


def predict(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Predict and write everything; (file, reason) of what has no result."""
    require_prediction_folder(args.output_dir)
    listing = list_images(args.inputs)
    ids = number_images(listing.images)
    if args.annotations:
        ids = match_image_ids(listing.images, load_file_names(args.annotations), args.annotations)
    log_inputs(listing, len(listing.images) - len(ids))
    device = choose_device_type(args.device)
    detector = load(args, device)
    rules = {"depth": args.image_depth, "usual_depth": detector.rules.usual, "orientation": args.orientation}
    survey = survey_images(listing.images, ids, **rules, takes_all=args.force)
    log_survey(survey, args.output_dir)
    title, score_label = words_for(detector)
    threshold = choose_threshold(args, detector)
    unreadable = predict_images(
        detector,
        survey,
        ids,
        listing.unreadable,
        OutputSettings(args.output_dir, args.draw, detector.names, threshold, score_label),
        settings={
            "checkpoint": [fingerprint(path) for path in args.models],
            "images": [os.path.abspath(text) for text in args.inputs],
            "score": threshold,
            "draw": args.draw,
            "flip": args.flip,
            "scales": args.scales,
            "merge": [args.merge, args.merge_iou],
            "options": args.options,
            # absent, as in earlier versions, where nothing differs from these
            **({"image_depth": survey.rules.depth} if survey.rules.depth else {}),
            **({"orientation": args.orientation} if args.orientation != "stored" else {}),
        },
        title=title,
        description={"checkpoint": ", ".join(map(str, args.models)), "views": describe_views(args)},
        device=torch.device(device),
        batch_size=args.batch_size,
        num_threads=min(usable_cores(), MOST_THREADS),
    )
    for file, reason in unreadable[:MOST_WARNINGS]:
        echo(printable(f"warning: {file}: {reason}"), file=sys.stderr)
    if unreadable:
        echo(f"warning: {len(unreadable)} could not be read: {args.output_dir / UNREADABLE_FILE}", file=sys.stderr)
    return unreadable + [(image.file, image.reason) for image in survey.excluded]


def log_survey(survey: Survey, folder: Path) -> None:
    """Log how the images are read, and which are not predicted."""
    if survey.depth.summary and not survey.depth.is_guess:
        echo(survey.depth.summary)
    for warning in survey.warnings:
        echo(f"warning: {warning}", file=sys.stderr)
    for image in survey.excluded[:MOST_WARNINGS]:
        echo(printable(f"warning: {image.file}: not predicted: {image.reason}"), file=sys.stderr)
    if survey.excluded:
        count = f"{len(survey.excluded)} are no frontal chest radiographs by their header and are not predicted"
        echo(f"warning: {count}: {folder / EXCLUDED_FILE}; --force predicts them, too", file=sys.stderr)


def log_inputs(listing: Listing, num_unlisted: int) -> None:
    """Log what is skipped."""
    if listing.num_repeated:
        echo(f"{listing.num_repeated} images were named twice; each is predicted once")
    if listing.ignored:
        echo(printable(f"ignored, being no images ({len(listing.ignored)}): {first_few(listing.ignored)}"))
    if num_unlisted:
        echo(f"{num_unlisted} images are skipped: the annotation file does not list them")


def load(args: argparse.Namespace, device: str) -> Detector:
    """Load the detector."""
    if args.onnx:
        return load_onnx_detector(args.onnx, flip=args.flip, merge=args.merge, merge_iou=args.merge_iou)
    return load_detector(
        *args.models,
        device=device,
        flip=args.flip,
        scales=args.scales,
        merge=args.merge,
        merge_iou=args.merge_iou,
        options=args.options,
    )


def words_for(detector: Detector) -> tuple[str, str]:
    """(title of the page, name of the image score): those of tuberculosis where all categories are TBX11K's."""
    is_tb = {*detector.names.values()} <= {*CATEGORIES.values()}
    return ("Detections on chest X-rays", "TB score") if is_tb else ("Detections", "image score")


def choose_threshold(args: argparse.Namespace, detector: Detector) -> float:
    """The score threshold."""
    if args.threshold is not None:
        return args.threshold
    if detector.threshold is None:
        print_note(
            f"the checkpoint has no operating point: the score threshold is {SCORE}; --threshold chooses another"
        )
        return SCORE
    if len(detector.views) > 1:
        print_note(
            "the operating point was chosen without test-time augmentation; merged scores are distributed "
            "differently. Choose one with scripts/score.py on validation images, and give it as --threshold"
        )
    return detector.threshold


def fingerprint(path: Path) -> str:
    """Name and hash of a checkpoint."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(partial(file.read, 1 << 20), b""):
            digest.update(part)
    return f"{path.name} {digest.hexdigest()[:16]}"


def describe_views(args: argparse.Namespace) -> str:
    """The sizes and mirrorings of an image that the network gets."""
    sizes = f"shorter sides {', '.join(map(str, args.scales))}" if args.scales else "one"
    merged = f", merged by {args.merge} at {args.merge_iou}" if args.flip or len(args.scales) > 1 else ""
    return sizes + (" and mirrored" if args.flip else "") + merged


if __name__ == "__main__":
    run_program(main)
