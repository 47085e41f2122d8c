"""Write a trained network as a file for other engines, and check the file before it gets its name.

    python scripts/export.py --checkpoint logs/RUN/best.pth --format onnx

Every file is run beside PyTorch (float32) on X-rays and on random numbers, in batches of 1 and of 4. A file that
deviates by 0.001 pixels or 0.0001 of a score is removed, and the exit code is 1. docs/export.md explains the table.
Research use, not a medical device.
"""

import argparse
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from PIL import Image

from datasets.phantom import PhantomCase, render_case, sample_lesions
from models.export import BATCHES, BOX_BOUND, SCORE_BOUND, WRITERS, ExportSettings, export_checkpoint
from util.base.console import echo, print_error
from util.base.errors import UserError
from util.base.seed import derive_rng
from util.config.command_line import Parser
from util.distributed.exit_codes import FAILED
from util.images import UNREADABLE, read_image, to_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".bmp"}
PHANTOM_SIZE = 512


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
    """Write, check, and print the verdict; 1 where the check failed and there is no file."""
    args = parse_args()
    source = str(args.images) if args.images else "phantom"
    settings = ExportSettings(args.format, args.size, args.post_processing, source, args.repeats)
    images = x_rays(args.images, args.num_images)
    output, facts, agreement = export_checkpoint(args.checkpoint, args.output, settings, images, echo)
    deviation = f"largest deviation {agreement.box:.1e} px of a box, {agreement.score:.1e} of a score"
    if not agreement.is_good:
        print_error(f"{deviation}; less than {BOX_BOUND:g} px and {SCORE_BOUND:g} is allowed: {output} is not written")
        return FAILED
    echo(f"\n{output}: {deviation}; {facts.notice}")
    if facts.nms_iou_threshold > 0:
        echo(f"NMS above an IoU of {facts.nms_iou_threshold:g} is left to the caller")
    return 0


def x_rays(folder: Path | None, num: int) -> Iterator[Image.Image]:
    """RGB images of a folder, or of phantoms, half of them with lesions."""
    if folder is None:
        for i in range(num):
            rng = derive_rng(0, "export", i)
            lesions = sample_lesions(rng) if i % 2 else ()
            case = PhantomCase(f"export{i}", 0, "tb" if i % 2 else "health", lesions)
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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit cleans up like Ctrl-C
    run_program(main)
