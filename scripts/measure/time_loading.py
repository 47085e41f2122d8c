#!/usr/bin/env python
"""Time the loading of an image on one core in three ways, alternately.

    python scripts/measure/time_loading.py -c CONFIG --data_path DIR --cache CACHE

"usual" is the baseline: the file opened by Pillow, converted to RGB, with the same augmentation and random numbers,
then a normalised float tensor. "files" and "cache" are the paths of training, from the image files and from the cache.

"image" is the part that the cache replaces: file to pixels. "sample" is the work of a loader process: image, boxes,
augmentation, tensor. "input" adds the normalisation of the network's input, on this core. Every image is read once
before, so that the disk is not measured.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
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
from scripts.measure.stopwatch import time_alternately
from util.base.console import echo
from util.config import load_config
from util.config.command_line import Parser, add_config_arguments, add_data_argument, hide_aliases
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
    compare(*prepare(args), args.num_images, args.repeats)


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
    """The training split, and the data config without and with the cache."""
    config, cached = (
        load_config(args.config_file, [*args.options, f"image_cache={folder!r}"]) for folder in ("", str(args.cache))
    )
    split = build_split(cached.data, args.data_path, "train", num_classes=cached.model.num_classes)
    return split, config.data, cached.data


def compare(split: Split, from_files: DataConfig, from_cache: DataConfig, num: int, rounds: int) -> None:
    """Measure and print."""
    num = min(num, split.num_images)
    ways_by_part = ways_to(train_dataset(split, from_files), train_dataset(split, from_cache))
    echo(f"{num} images of {split.name}, milliseconds per image on one core,")
    echo(f"median of {rounds} alternating rounds [fastest..slowest]; ratio: usual to cache")
    echo(f"{'':8}{'usual':>21}{'files':>21}{'cache':>21}{'ratio':>8}")
    for part, ways in ways_by_part.items():
        for way in ways.values():
            read_all(way, num)
        seconds = time_alternately({name: partial(read_all, way, num) for name, way in ways.items()}, rounds)
        times = {name: [MILLISECONDS * value / num for value in own] for name, own in seconds.items()}
        columns = (f"{median(own):7.3f} [{min(own):.2f}..{max(own):.2f}]" for own in times.values())
        ratio = median(times["usual"]) / median(times["cache"])
        echo(f"{part:8}{''.join(f'{column:>21}' for column in columns)}{ratio:7.1f}x")


def train_dataset(split: Split, data: DataConfig) -> CocoDataset:
    """The dataset of the training loader."""
    dataset = build_train_loader(split, data, batch_size=1, accumulation=1, seed=0)[0].dataset
    assert isinstance(dataset, CocoDataset), type(dataset)
    return dataset


def ways_to(plain: CocoDataset, cached: CocoDataset) -> dict[str, dict[str, Way]]:
    """The three ways to load each part."""
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


def read_all(way: Way, num: int) -> None:
    """Read `num` images."""
    for index in range(num):
        way(index)


if __name__ == "__main__":
    run_program(main)
