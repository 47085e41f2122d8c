"""Use a trained model on image files: boxes, a score for each image, pictures, and a page to look at.

    python scripts/predict.py --checkpoint logs/RUN/best.pth IMAGES [IMAGES ...] --output_dir OUT

IMAGES are files, folders, zip archives or patterns; PNG, JPEG, TIFF and DICOM. The checkpoint is all it takes. Run the
same command again after an interruption: images that are done are passed over. docs/predict.md says what OUT gets.

Exit codes: 0 all done; 3 all done but for images that cannot be read, which are listed; 2 a mistake that you can mend.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import torch

from datasets.annotations.split import load_split
from models import load_detector
from models.inference.detector import Detector
from models.inference.load import MERGE_IOU
from util.base.console import Progress, echo, remark
from util.base.csv_text import csv_lines
from util.base.errors import UserError
from util.base.files import write_whole
from util.base.folder_lock import hold
from util.base.processes import usable_cores
from util.base.text import first_few, printable
from util.config.command_line import Parser, add_device_argument, hide_aliases
from util.detection.fusion import METHODS
from util.distributed.collectives import choose_device_type
from util.distributed.exit_codes import FINISHED, INCOMPLETE
from util.predict.inputs import Listing, Source, list_sources
from util.predict.loop import Album, predict_all
from util.predict.outputs import FILE, PICTURES
from util.predict.page import PAGE, Story, write_page
from util.predict.rows import Row, RowFile
from util.predict.tables import DETECTIONS, IMAGES, TABLES, write_tables

SCORE = 0.3  # where a checkpoint has no operating point
UNREADABLE = "unreadable.csv"
MOST_THREADS = 16
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
    add("--flip", action="store_true", help="look at each image mirrored too, and merge what is found")
    add(
        "--scales",
        type=int,
        nargs="+",
        default=[],
        metavar="PIXELS",
        help="look at each image with these shorter sides, and merge (default: that of the config)",
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
    """Predict, write everything, say what came of it; (file, reason) of what could not be read."""
    folder = args.output_dir
    require_own(folder)
    listing = list_sources(args.inputs)
    ids = number_images(listing, args.annotations)
    sources = [source for source in listing.sources if source.name in ids]
    told_inputs(listing, sources)
    device = choose_device_type(args.device)
    detector = load(args, device)
    threshold = choose_threshold(args, detector)
    with hold(folder, "prediction"):
        rows = open_rows(folder, args, threshold)
        album = Album(folder, args.draw, detector.names, threshold)
        todo = [source for source in sources if not is_done(source, rows)]
        if len(todo) < len(sources):
            echo(f"{len(sources) - len(todo)} of {len(sources)} images are done already")
        progress = Progress("predicting", len(sources), "images", done=len(sources) - len(todo))
        unreadable = predict_all(
            detector,
            todo,
            rows,
            album,
            device=torch.device(device),
            batch_size=args.batch_size,
            num_threads=min(usable_cores(), MOST_THREADS),
            after_images=progress.advance,
        )
        progress.close()
        where = {source.name: source.where for source in sources}
        troubles = listing.unusable + [(where[name], reason) for name, reason in unreadable]
        failed = {name for name, _ in unreadable}
        write_results(args, rows, {name: ids[name] for name in where if name not in failed}, album, troubles)
        return troubles


def require_own(folder: Path) -> None:
    """Files of others are not overwritten, whatever they are called."""
    there = [name for name in (PICTURES, PAGE, UNREADABLE, *TABLES) if (folder / name).exists()]
    if there and not (folder / FILE).is_file():
        raise UserError(
            f"{folder}: has {first_few(there)} and no {FILE}, so it is not of an earlier prediction; choose "
            "another --output_dir"
        )


def number_images(listing: Listing, annotations: Path | None) -> dict[str, int]:
    """Image id by name: 1, 2, ... in order, or those of an annotation file for the images that it lists.

    Raises:
        UserError: the annotation file lists none of the images, or two files are the same image of it.
    """
    if annotations is None:
        return {source.name: number for number, source in enumerate(listing.sources, start=1)}
    files = {file: image for image, file in load_split(annotations.parent, annotations).files_by_id.items()}
    ids = {}
    taken = {}
    for source in listing.sources:
        parts = source.where.split("/")
        tails = ("/".join(parts[n:]) for n in range(len(parts)))  # the longest first
        image = next((files[tail] for tail in tails if tail in files), None)
        if image is None:
            continue
        if image in taken:
            raise UserError(
                f"{annotations}: {taken[image].where} and {source.where} are both its image {image}; give one of them"
            )
        ids[source.name] = image
        taken[image] = source
    if not ids:
        raise UserError(
            f"{annotations}: lists none of the images, such as {first_few([s.where for s in listing.sources])}; it "
            f"lists {first_few(list(files))}"
        )
    if len(ids) < len(files):
        absent = [file for file, image in files.items() if image not in taken]
        remark(f"{annotations}: {len(absent)} of its {len(files)} images are not among the inputs: {first_few(absent)}")
    return ids


def told_inputs(listing: Listing, sources: Sequence[Source]) -> None:
    """Say what is passed over."""
    if listing.num_repeated:
        echo(f"{listing.num_repeated} images were named twice; each is predicted once")
    if listing.ignored:
        echo(printable(f"ignored, being no images ({len(listing.ignored)}): {first_few(listing.ignored)}"))
    if len(sources) < len(listing.sources):
        echo(f"{len(listing.sources) - len(sources)} images are passed over: the annotation file does not list them")


def load(args: argparse.Namespace, device: str) -> Detector:
    """The detector that the flags ask for."""
    if args.onnx:
        try:
            from models.export.onnx_detector import load_onnx_detector  # needs a package that checkpoints do not
        except ModuleNotFoundError as error:
            raise UserError(f"--onnx needs the package {error.name}: pip install -r requirements-extra.txt") from error
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


def choose_threshold(args: argparse.Namespace, detector: Detector) -> float:
    """The score from which on a box counts."""
    if args.threshold is not None:
        return args.threshold
    if detector.threshold is None:
        remark(f"the checkpoint has no operating point: boxes count from {SCORE} on; --threshold chooses another")
        return SCORE
    if len(detector.views) > 1:
        remark(
            "the operating point was chosen for one look at an image; merged scores are others. Choose one with "
            "scripts/score.py on validation images, and give it as --threshold"
        )
    return detector.threshold


def open_rows(folder: Path, args: argparse.Namespace, threshold: float) -> RowFile:
    """The rows of this prediction, those of an earlier start included."""
    settings = {
        "checkpoint": [fingerprint(path) for path in args.models],
        "images": [os.path.abspath(text) for text in args.inputs],
        "score": threshold,
        "draw": args.draw,
        "flip": args.flip,
        "scales": args.scales,
        "merge": [args.merge, args.merge_iou],
        "options": args.options,
    }
    return RowFile(folder, settings)


def fingerprint(path: Path) -> str:
    """Tells a checkpoint from another one of the same name."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(partial(file.read, 1 << 20), b""):
            digest.update(part)
    return f"{path.name} {digest.hexdigest()[:16]}"


def is_done(source: Source, rows: RowFile) -> bool:
    """Whether an earlier start has the image, as it is now."""
    try:
        return (source.name, source.stamp) in rows
    except OSError:  # whoever reads it tells
        return False


def write_results(
    args: argparse.Namespace, rows: RowFile, ids: Mapping[str, int], album: Album, troubles: list[tuple[str, str]]
) -> None:
    """Write tables and page, and say where they are."""
    folder, threshold = album.folder, album.threshold
    names = list(ids)

    def numbered() -> Iterator[tuple[int, Row]]:
        return ((ids[row.name], row) for row in rows.read(names))

    write_tables(folder, numbered, album.names, threshold)
    write_unreadable(folder / UNREADABLE, troubles)
    scores = {row.name: row.score for row in rows.read(names)}
    by_score = sorted(scores, key=lambda name: (scores[name] is None, -(scores[name] or 0.0), name))
    num_positive = sum(score is not None and score >= threshold for score in scores.values())
    facts = {
        "images": f"{len(scores)}, of which {num_positive} have a box",
        "a box counts from": f"score {threshold:.4g} on",
        "checkpoint": ", ".join(map(str, args.models)),
        "seen": told_views(args),
        "all figures": f"{DETECTIONS}, {IMAGES}",
    }
    story = Story("Findings of a detector on chest X-rays", facts, troubles)
    write_page(folder / PAGE, story, rows.read(by_score), album.names, threshold)
    echo(f"{len(scores)} images, {num_positive} with a box from score {threshold:.4g} on: {folder / PAGE}")
    for file, reason in troubles[:10]:
        echo(printable(f"warning: {file}: {reason}"), file=sys.stderr)
    if troubles:
        echo(f"warning: {len(troubles)} could not be read: {folder / UNREADABLE}", file=sys.stderr)


def told_views(args: argparse.Namespace) -> str:
    """How the network looked at an image, in words."""
    sizes = f"with shorter sides {', '.join(map(str, args.scales))}" if args.scales else "once"
    merged = f", merged by {args.merge} at {args.merge_iou}" if args.flip or len(args.scales) > 1 else ""
    return sizes + (" and mirrored" if args.flip else "") + merged


def write_unreadable(path: Path, troubles: list[tuple[str, str]]) -> None:
    """List what could not be read; the list is empty where all could."""
    text = "".join(csv_lines(("file", "reason"), troubles))
    write_whole(path, lambda file: file.write(text.encode("utf-8", errors="backslashreplace")))


if __name__ == "__main__":
    run_program(main)
