#!/usr/bin/env python
"""Decode the images of a recipe's two splits once, into one file each, that training reads instead of the image files.

    python scripts/build_cache.py -c config/DINO/DINO_4scale_tbx11k.py --data_path TBX11K --cache CACHE
    python main.py ... --options image_cache=CACHE

Training gets the same pixels to the bit, and builds what is missing by itself. Killed, the same command goes on.
A cache that is there is compared with its checksums, and built anew where the disk has not kept it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.build import build_split, open_cache_of
from util.base.console import echo
from util.config.command_line import Parser, add_config_arguments, add_data_argument
from util.config.load import load_config

MEGABYTE = 10**6


def main() -> None:
    """Build both caches."""
    args = parse_args()
    config = load_config(args.config_file, [*args.options, f"image_cache={str(args.cache)!r}"])
    for which in ("train", "val"):
        split = build_split(config.data, args.data_path, which, num_classes=config.model.num_classes)
        images = open_cache_of(split, config.data, checks_pixels=True)
        coloured = f", {images.num_coloured} of them in colour, at three times the size" * bool(images.num_coloured)
        echo(f"{images.file}: {len(images)} images{coloured}, {images.num_bytes / MEGABYTE:.0f} MB")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add_data_argument(parser)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the caches, one for each data set")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
