#!/usr/bin/env python
"""How long an image takes on one core, in three ways in turns, so that all meet the same machine.

    python scripts/measure/time_loading.py -c CONFIG --data_path DIR --cache CACHE

"usual" is the yardstick: the file opened by Pillow, in RGB through the same augmentation with the same draws, at the
end a normalised float tensor. "files" and "cache" are what training does, from the image files and from the cache.

"image" is what the cache replaces: file to pixels. "sample" is all that a loader process does for training: image,
boxes, augmentation, tensor. "input" is what the network gets, were this core the device: normalised, too. Every image
is read once before, so that the disk is not what is measured.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import torch
from PIL import Image
from torch import Tensor

from datasets.annotations.split import Split
from datasets.build import build_split, build_train_loader
from datasets.dataset import CocoDataset
from util.base.console import echo
from util.config.command_line import Parser, add_config_arguments, add_data_argument, hide_aliases
from util.config.load import load_config
from util.config.schema import DataConfig
from util.detection.batch import collate
from util.detection.pixels import IMAGENET_MEAN, IMAGENET_STD
from util.images.reader import open_image

MILLISECONDS = 1000
Way = Callable[[int], object]


def main() -> None:
    """Print the table."""
    args = parse_args()
    torch.set_num_threads(1)  # as in a loader process
    tell(*prepare(args), args.num_images, args.repeats)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_config_arguments(parser)
    add_data_argument(parser)
    add("--cache", type=Path, required=True, help="folder for the caches; built if need be")
    num_help = "images (default: 100, or as many as there are)"
    hide_aliases(add("--num_images", "--num", type=int, default=100, help=num_help))
    repeats_help = "how often each is read, each way (default: 7)"
    hide_aliases(add("--repeats", "--rounds", type=int, default=7, help=repeats_help))
    args = parser.parse_args()
    if min(args.num_images, args.repeats) < 1:
        parser.error("--num_images and --repeats must be at least 1")
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
    echo(f"{num} images of {split.name}, milliseconds per image on one core,")
    echo(f"median of {rounds} rounds in turns [fastest..slowest]; ratio: usual to cache")
    echo(f"{'':8}{'usual':>21}{'files':>21}{'cache':>21}{'ratio':>8}")
    for what, ways in ways_to(plain, cached).items():
        times = in_turns(ways, num, rounds)
        columns = (f"{median(own):7.3f} [{min(own):.2f}..{max(own):.2f}]" for own in times.values())
        ratio = median(times["usual"]) / median(times["cache"])
        echo(f"{what:8}{''.join(f'{column:>21}' for column in columns)}{ratio:7.1f}x")


def ways_to(plain: CocoDataset, cached: CocoDataset) -> dict[str, dict[str, Way]]:
    """Per work the three ways to do it."""
    split = plain.split

    def usual_image(index: int) -> Image.Image:
        with open_image(split.image_dir / str(split.file_names[index])) as image:
            return image.convert("RGB")

    usual = CocoDataset(split, plain.transform, seed=0, is_train=True, mix=plain.mix, images=usual_image)
    mean, std = (torch.tensor(c)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))

    def usual_sample(index: int) -> Tensor:
        return usual[index].image.float().div(255).sub_(mean).div_(std)

    def network_input(dataset: CocoDataset) -> Way:
        return lambda index: collate([dataset[index]]).to(mean.device)

    return {
        "image": {"usual": usual_image, "files": plain.load_image, "cache": cached.load_image},
        "sample": {"usual": usual_sample, "files": plain.__getitem__, "cache": cached.__getitem__},
        "input": {"usual": usual_sample, "files": network_input(plain), "cache": network_input(cached)},
    }


def in_turns(ways: Mapping[str, Way], num: int, rounds: int) -> dict[str, list[float]]:
    """Per way and round the milliseconds per image; which way begins changes from round to round."""
    for way in ways.values():
        read_all(way, num)
    times = {name: [] for name in ways}
    for turn in range(rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            times[name].append(MILLISECONDS * read_all(ways[name], num) / num)
    return times


def read_all(way: Way, num: int) -> float:
    """Processor seconds: what other programs do meanwhile does not count."""
    start = time.process_time()
    for index in range(num):
        way(index)
    return time.process_time() - start


if __name__ == "__main__":
    run_program(main)
