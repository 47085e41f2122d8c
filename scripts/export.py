"""Write a trained network as a file for other engines, and check the file before it gets its name.

    python scripts/export.py --checkpoint logs/RUN/best.pth --format onnx

Every file is run beside PyTorch (float32) on X-rays and on random numbers, in batches of 1 and of 4. A file that
deviates by 0.001 pixels or 0.0001 of a score is removed, and the exit code is 1. docs/export.md explains the table.
Research use, not a medical device.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import torch
from PIL import Image
from torch import Tensor

from datasets.phantom.render import Case, render_case
from datasets.phantom.statistics import sample_lesions
from models.export.check import BOX_BOUND, SCORE_BOUND, Agreement, compare, measure_speed, merge_agreements
from models.export.portable import ExportFacts, PortableDetector, PortableNetwork, smallest_side
from models.export.writers import OPSET, SUFFIXES, WRITERS, Runner, open_runner, require_packages
from models.inference.detector import Detector
from models.inference.load import load_detector
from util.base.console import complain, echo
from util.base.errors import UserError
from util.base.seed import derive_rng
from util.config.command_line import Parser
from util.config.load import as_options
from util.config.schema import PLAIN, Config
from util.detection.pixels import IMAGENET_MEAN, IMAGENET_STD, network_pixels, normalised
from util.distributed.exit_codes import FAILED
from util.images import UNREADABLE, read_image, to_image
from util.training.checkpoints import checkpoint
from util.training.checkpoints.start import config_inside

PLAIN_OPTIONS = as_options(PLAIN)  # what is exported
AS_USED = as_options({"amp": PLAIN["amp"]})  # what it is compared with: the network as a CPU computes it, not rounded
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".bmp"}
PHANTOM_SIZE = 512
BATCHES = (1, 4)
ROW = "{:8}{:>11}{:>7}{:>8}{:>11}{:>11}{:>12}{:>9}"


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="checkpoint of this repository; averaged weights are used")
    add("--format", choices=list(WRITERS), default="onnx", help="kind of file (default: onnx)")
    add("--output", type=Path, help="file to write (default: beside the checkpoint, with the suffix of its kind)")
    add(
        "--size",
        type=size,
        metavar="SIZE",
        help="pixels of the network's input: 512 for a square, 512x640 for height and width, or dynamic for images of "
        "any size (default: a square of the data_eval_scale of the config)",
    )
    add(
        "--post_processing",
        choices=["inside", "outside"],
        default="inside",
        help="inside: the file gives scores, labels and boxes in pixels of the image file, best first; outside: it "
        "gives logits and boxes of all queries (default: inside)",
    )
    add("--images", type=Path, metavar="DIR", help="folder of X-rays for the check (default: phantom images)")
    add("--num_images", type=int, default=20, metavar="N", help="X-rays in the check (default: 20)")
    add("--repeats", type=int, default=5, metavar="N", help="timed runs for the table of speed (default: 5; 0: none)")
    args = parser.parse_args()
    for name, low in (("num_images", max(BATCHES)), ("repeats", 0)):
        if vars(args)[name] < low:
            parser.error(f"--{name} must be at least {low}, got {vars(args)[name]}")
    return args


def size(text: str) -> tuple[int | None, int | None]:
    """(height, width); None for what may be any."""
    if text == "dynamic":
        return None, None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"expected 512, 512x640 (height x width) or dynamic, got {text!r}")
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> int:
    """Write, check, and give the file its name or remove it; 1 where the check failed."""
    args = parse_args()
    require_packages(args.format)
    output = args.output or args.checkpoint.with_suffix(SUFFIXES[args.format])
    check_output(output, args.checkpoint)
    pictures = list(x_rays(args.images, args.num_images))
    torch.manual_seed(0)
    detector = load_detector(args.checkpoint, device="cpu", options=PLAIN_OPTIONS)
    config = config_inside(args.checkpoint, checkpoint.load(args.checkpoint), PLAIN_OPTIONS)
    facts = facts_of(detector, config, args)
    network = detector.views[0].network
    graph = PortableNetwork(network.model, network.postprocess.image_gate)
    if args.post_processing == "inside":
        graph = PortableDetector(network.model, network.postprocess)
    unchecked = output.with_name(f"unchecked-{os.getpid()}-{output.name}")  # not that of another export
    smallest = smallest_side(config.model.num_queries, strides(config))
    check_size(facts, smallest)
    if args.format == "torchscript":
        echo("torchscript: PyTorch has deprecated it; a later PyTorch may not read the file. torch_export replaces it")
    try:
        WRITERS[args.format](graph.eval(), facts, smallest, unchecked)
        runner = open_runner(unchecked, args.format, facts)
        reference = load_detector(args.checkpoint, device="cpu", options=AS_USED)
        agreement = check(runner, facts, reference, args, pictures, smallest)
        if agreement.is_good:
            os.replace(unchecked, output)
    finally:
        unchecked.unlink(missing_ok=True)
    return tell(agreement, facts, output)


def check_output(output: Path, source: Path) -> None:
    """Refuse a place where no file can be before the work begins."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder; --output takes the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: is the checkpoint itself; give another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output.parent}: cannot be made ({error.strerror}); choose another --output") from error
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"{output.parent}: cannot be written; choose another --output, or mend the permissions")


def facts_of(detector: Detector, config: Config, args: argparse.Namespace) -> ExportFacts:
    """What the file says of itself."""
    view = detector.views[0]
    height, width = args.size or (view.scale, view.scale)
    scale, max_size = view.scale, view.max_size
    if height is not None:  # so that images are resized to the only size that the file takes
        scale = min(height, width)
        max_size = max(height, width, round(max_size * scale / view.scale))
    return ExportFacts(
        names=detector.names,
        threshold=detector.threshold,
        post_processing=args.post_processing,
        num_select=config.eval.num_select,
        nms_iou_threshold=config.eval.nms_iou_threshold,
        category_ids=tuple(sorted(detector.names)) if config.model.restrict_to_categories else None,
        scale=scale,
        max_size=max_size,
        height=height,
        width=width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        config=dict(vars(config.model)),
        opset=OPSET if args.format == "onnx" else None,
    )


def strides(config: Config) -> list[int]:
    """Pixels of the input per cell, level by level."""
    first = 4 * 2 ** config.model.return_interm_indices[0]
    return [first * 2**level for level in range(config.model.num_feature_levels)]


def check_size(facts: ExportFacts, smallest: int) -> None:
    """Refuse a size with fewer cells than queries, or one that has no end, before the work begins."""
    if facts.height is None and str(facts.config["backbone"]).startswith("swin"):
        # torch.export reasons about windows of unknown number without end
        raise UserError(
            f"--size dynamic: the backbone {facts.config['backbone']} takes a fixed size; give --size a number"
        )
    if facts.height is not None and min(facts.height, facts.width) < smallest:
        raise UserError(
            f"--size {facts.height}x{facts.width}: a network with {facts.config['num_queries']} queries takes sides of "
            f"at least {smallest} pixels"
        )


def check(
    runner: Runner,
    facts: ExportFacts,
    reference: Detector,
    args: argparse.Namespace,
    pictures: list[Image.Image],
    smallest: int,
) -> Agreement:
    """Compare the file with PyTorch and print the tables."""
    network = reference.views[0].network
    kind = f"{args.images}" if args.images else "phantom"
    echo(f"{args.format}, opset {facts.opset}" if facts.opset else args.format, end="; ")
    echo(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; images: {len(pictures)} of {kind}")
    echo(ROW.format("input", "size", "batch", "images", "box, px", "score", "same cells", "paired"))
    rows = []
    for height, width in check_sizes(facts, smallest):
        inputs = {"x-rays": stack(pictures, height, width), "random": torch.randn(2 * max(BATCHES), 3, height, width)}
        for name, images in inputs.items():
            for batch in BATCHES:
                parts = images[: len(images) // batch * batch].split(batch)
                row = merge_agreements(
                    compare(runner, facts.post_processing, network.model, network.postprocess, part) for part in parts
                )
                rows.append(row)
                told = [row.num_images, f"{row.box:.1e}", f"{row.score:.1e}", row.num_same_choice]
                paired = f"{100 * row.num_paired / row.num_detections:.1f} %"
                echo(ROW.format(name, f"{height}x{width}", batch, *told, paired))
    agreement = merge_agreements(rows)
    if agreement.is_good and args.repeats:
        tell_speed(runner, reference, check_sizes(facts, smallest)[0], args.repeats)
    return agreement


def check_sizes(facts: ExportFacts, smallest: int) -> list[tuple[int, int]]:
    """(height, width) of the images of the check; of any size: a square, and one that no stride divides."""
    if facts.height is not None:
        return [(facts.height, facts.width)]
    side = max(facts.scale, smallest)
    return [(side, side), (max(3 * side // 4 + 5, smallest), side + 9)]


def x_rays(folder: Path | None, num: int) -> Iterator[Image.Image]:
    """RGB images of a folder, or of phantoms, half of them with lesions."""
    if folder is None:
        for i in range(num):
            rng = derive_rng(0, "export", i)
            case = Case(f"export{i}", 0, "tb", sample_lesions(rng)) if i % 2 else Case(f"export{i}", 0, "health")
            yield to_image(render_case(case, PHANTOM_SIZE)).convert("RGB")
        return
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)[:num]
    if len(paths) < num:
        raise UserError(f"{folder}: holds {len(paths)} images, --num_images is {num}; give fewer, or another folder")
    for path in paths:
        try:
            yield read_image(path).convert("RGB")
        except UNREADABLE as error:
            raise UserError(f"{path}: cannot be read as an image ({error}); take it out of the folder") from error


def stack(pictures: list[Image.Image], height: int, width: int) -> Tensor:
    """[N, 3, height, width], normalised, each picture stretched to that."""
    resized = [p.resize((width, height), Image.Resampling.BILINEAR) for p in pictures]
    no_padding = torch.zeros(len(resized), height, width, dtype=torch.bool)
    return normalised(torch.stack([network_pixels(p) for p in resized]), no_padding)


def tell_speed(runner: Runner, reference: Detector, sides: tuple[int, int], repeats: int) -> None:
    """Print CPU seconds per image of PyTorch and of the file."""
    echo(f"\n{'batch':>5}{'PyTorch':>11}{'file':>11}   CPU seconds per image at {sides[0]}x{sides[1]}, ", end="")
    echo(f"medians of {repeats}, by turns")
    for batch in BATCHES:
        images = torch.randn(batch, 3, *sides)
        ours, theirs = measure_speed(runner, reference.views[0].network.model, images, repeats)
        echo(f"{batch:>5}{ours:>11.3f}{theirs:>11.3f}   x {ours / theirs:.2f}")


def tell(agreement: Agreement, facts: ExportFacts, output: Path) -> int:
    """Print the verdict; the exit code."""
    found = f"largest deviation {agreement.box:.1e} px of a box, {agreement.score:.1e} of a score"
    if not agreement.is_good:
        allowed = f"{BOX_BOUND:g} px and {SCORE_BOUND:g}"
        complain(f"{found}; less than {allowed} is allowed: {output} is not written")
        return FAILED
    echo(f"\n{output}: {found}; {facts.notice}")
    if facts.nms_iou_threshold > 0:
        echo(f"suppression of boxes that overlap by more than {facts.nms_iou_threshold:g} is left to the caller")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit cleans up like Ctrl-C
    run_program(main)
