#!/usr/bin/env python
"""How long an image takes on one core, from its file and from the cache, in turns, so that both meet the same machine.

    python scripts/time_loading.py -c CONFIG --data_path DIR --cache CACHE

"image" is what the cache replaces: file to RGB pixels. "sample" is all that a loader process does for training: image,
boxes, augmentation, tensor. Every image is read once before, so that the disk is not what is measured.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from datasets.build import build_split, build_train_loader
from datasets.split import Split
from util.config import load_config
from util.errors import UserError
from util.schema import DataConfig

MILLISECONDS = 1000


def main() -> int:
    """Print the table; 2 when that is not possible."""
    args = parse_args()
    torch.set_num_threads(1)  # as in a loader process
    try:
        tell(*prepare(args), args.num, args.rounds)
    except (UserError, OSError) as error:
        print(f"time_loading: {error}", file=sys.stderr)
        return 2
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config_file", type=Path, required=True, help="recipe")
    parser.add_argument("--data_path", type=Path, required=True, help="data folder")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the caches; built if need be")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config")
    parser.add_argument("--num", type=int, default=100, help="images (default: 100, or as many as there are)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is read, either way (default: 7)")
    args = parser.parse_args()
    if min(args.num, args.rounds) < 1:
        parser.error("--num and --rounds must be at least 1")
    return args


def prepare(args: argparse.Namespace) -> tuple[Split, DataConfig, DataConfig]:
    """The training split, and the config without and with the cache."""
    config, cached = (
        load_config(args.config_file, [*args.options, f"image_cache={folder!r}"]) for folder in ("", str(args.cache))
    )
    split = build_split(cached.data, args.data_path, "train", num_classes=cached.model.num_classes)
    return split, config.data, cached.data


def tell(split: Split, from_files: DataConfig, from_cache: DataConfig, num: int, rounds: int) -> None:
    """Measure and print."""
    num = min(num, split.num_images)
    plain, cached = (
        build_train_loader(split, data, batch_size=1, accumulation=1, seed=0)[0].dataset
        for data in (from_files, from_cache)
    )
    print(f"{num} images of {split.name}, median of {rounds} rounds in turns, milliseconds per image on one core")
    print(f"{'':8}{'files':>9}{'cache':>9}{'ratio':>8}")
    ways = {
        "image": (plain.load_image, cached.load_image),
        "sample": (plain.__getitem__, cached.__getitem__),
    }
    for what, pair in ways.items():
        slow, fast = (MILLISECONDS * seconds for seconds in in_turns(pair, num, rounds))
        print(f"{what:8}{slow:9.3f}{fast:9.3f}{slow / fast:7.1f}x")


def in_turns(ways: tuple[Callable[[int], object], ...], num: int, rounds: int) -> list[float]:
    """Per way the median over the rounds of the seconds per image; which way begins changes from round to round."""
    for way in ways:
        read_all(way, num)
    seconds = [[] for _ in ways]
    for turn in range(rounds):
        for i in sorted(range(len(ways)), reverse=bool(turn % 2)):
            seconds[i].append(read_all(ways[i], num) / num)
    return [median(own) for own in seconds]


def read_all(way: Callable[[int], object], num: int) -> float:
    """Processor seconds: what other programs do meanwhile does not count."""
    start = time.process_time()
    for index in range(num):
        way(index)
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
