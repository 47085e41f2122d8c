"""Draw the decoder's attention for one detection, layer by layer.

    python scripts/show_attention.py --checkpoint logs/RUN/best.pth X-RAY.png --output_dir OUT

Research use, not a medical device: the plot shows how a network computes, not what is on the X-ray.
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

from models import load_detector
from models.inference import DetectionTrace, trace_detection
from util.base.console import echo
from util.base.errors import UserError
from util.base.files import write_atomically
from util.config.command_line import Parser
from util.images import UNREADABLE, read_image
from util.plots.attention import NOTICE, LayerPanel, draw_attention


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
    """Write the plot of one detection; its path."""
    detector = load_detector(args.checkpoint, device="cpu")
    try:
        image = read_image(args.image).convert("RGB")
    except UNREADABLE as error:
        raise UserError(f"{args.image}: cannot be read as an image ({error}); give another file") from error
    trace = trace_detection(detector, image, args.detection)
    title = f"{trace.name} {trace.score:.2f}, detection {trace.rank} of {trace.num_detections} on {args.image.name}"
    figure = draw_attention(np.asarray(image), panels(trace), trace.cells, title)
    output = args.output_dir / f"{args.image.stem}_detection{trace.rank}.png"
    write_atomically(output, lambda file: figure.savefig(file, format="png", metadata={"Comment": NOTICE}))
    return output


def panels(trace: DetectionTrace) -> list[LayerPanel]:
    """One panel per layer."""
    return [
        LayerPanel(
            f"decoder layer {i} of {len(trace.layers)}: score {layer.score:.2f}",
            layer.reference,
            layer.box,
            layer.points,
            layer.weights,
            layer.levels,
        )
        for i, layer in enumerate(trace.layers, start=1)
    ]


if __name__ == "__main__":
    run_program(main)
