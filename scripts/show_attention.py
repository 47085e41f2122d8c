"""Draw where the decoder looks for one detection, layer by layer.

    python scripts/show_attention.py --checkpoint logs/RUN/best.pth X-RAY.png --output_dir OUT

Research use, not a medical device: the picture shows how a network computes, not what is on the X-ray.
docs/attention.md says how to read it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np

from models.inference.attention_maps import Look, look_at
from models.inference.load import load_detector
from util.base.console import echo
from util.base.errors import UserError
from util.base.files import write_whole
from util.config.command_line import Parser
from util.images import UNREADABLE, read_image
from util.plots.attention import NOTICE, Panel, draw_attention


def main() -> None:
    """Write OUT/IMAGE_detectionK.png and print its name."""
    echo(draw(parse_args()))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("image", type=Path, help="the X-ray: PNG, JPEG, TIFF or DICOM")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of this repository")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the picture, made where it is not")
    parser.add_argument(
        "--detection", type=int, default=1, metavar="K", help="which one, by score: 1 is the strongest (default: 1)"
    )
    return parser.parse_args()


def draw(args: argparse.Namespace) -> Path:
    """The picture of one detection."""
    detector = load_detector(args.checkpoint, device="cpu")
    try:
        image = read_image(args.image).convert("RGB")
    except UNREADABLE as error:
        raise UserError(f"{args.image}: cannot be read as an image ({error}); give another file") from error
    look = look_at(detector, image, args.detection)
    title = f"{look.name} {look.score:.2f}, detection {look.rank} of {look.num_detections} on {args.image.name}"
    figure = draw_attention(np.asarray(image), panels(look), look.cells, title)
    output = args.output_dir / f"{args.image.stem}_detection{look.rank}.png"
    write_whole(output, lambda file: figure.savefig(file, format="png", metadata={"Comment": NOTICE}))
    return output


def panels(look: Look) -> list[Panel]:
    """One per layer."""
    return [
        Panel(
            f"decoder layer {i} of {len(look.layers)}: score {layer.score:.2f}",
            layer.reference,
            layer.box,
            layer.points,
            layer.weights,
            layer.levels,
        )
        for i, layer in enumerate(look.layers, start=1)
    ]


if __name__ == "__main__":
    run_program(main)
