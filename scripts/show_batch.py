"""Draw training images with their boxes after sampling and augmentation.

python scripts/show_batch.py --config_file CONFIG --data_path DIR --options data_aug_rotate=10 positive_fraction=0.5
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()


from datasets.annotations.split import Split
from datasets.build import build_split, build_train_loader
from datasets.loader import WatchedLoader
from datasets.sampling.samplers import WindowBatchSampler
from util.base.console import echo
from util.base.errors import UserError
from util.base.text import label, short_names
from util.config import Config, load_config
from util.config.command_line import Parser, add_config_arguments, add_data_argument, hide_aliases
from util.detection.batch import Batch
from util.detection.boxes import cxcywh_to_xyxy
from util.plots.contact_sheet import AnnotatedImage, annotate_ground_truth, draw_ground_truth_sheet
from util.plots.style import save_figure

PADDING = (46, 52, 100)  # colour of the padding; the network gets zeros and a mask there


def main() -> None:
    """Write the sheet."""
    args = parse_args()
    draw(args, load_config(args.config_file, [*args.options, "num_workers=0"]))
    echo(args.output)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_config_arguments(parser)
    add_data_argument(parser)
    add("--ranks", type=int, default=1, help="GPUs of the training, each with its share of a step")
    add("--epoch", type=int, default=0, help="from 0 on (default: 0)")
    add("--step", type=int, default=0, help="first optimizer step of the epoch to draw (default: 0)")
    hide_aliases(add("--num_images", "--num", type=int, default=12, help="images on the sheet (default: 12)"))
    add("--only_with_boxes", action="store_true", help="leave out images without a box")
    add("--output", type=Path, default=Path("logs/batch.png"), help="default: logs/batch.png")
    args = parser.parse_args()
    for name, low in (("ranks", 1), ("num_images", 1), ("epoch", 0), ("step", 0)):
        if getattr(args, name) < low:
            parser.error(f"--{name} must be at least {low}, got {getattr(args, name)}")
    return args


def draw(args: argparse.Namespace, config: Config) -> None:
    """Draw the batches that training would get.

    Raises:
        UserError: the epoch has fewer steps, or the rest of it has no image to draw.
    """
    classes = config.model.num_classes
    split = build_split(config.data, args.data_path, "train", num_classes=classes)
    optim = config.optim
    seed = config.runtime.seed
    # The images of a step are the same however it is split: here the shares of all ranks are micro-batches.
    accumulation = optim.gradient_accumulation_steps * args.ranks
    batch_size = optim.batch_size
    loader, sampler = build_train_loader(
        split, config.data, batch_size=batch_size, accumulation=accumulation, seed=seed
    )
    if args.step >= sampler.num_windows:
        raise UserError(f"--step {args.step}: the epoch has {sampler.num_windows} steps, numbered from 0")
    sampler.set_epoch(args.epoch, args.step)
    tiles = list(islice(tiles_of(split, sampler, loader, args.only_with_boxes), args.num_images))
    if not tiles:
        raise UserError("the rest of the epoch has no image with a box; try another --step or --epoch")
    title = f"{split.name}, seed {seed}, epoch {args.epoch}: {sampler.description}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw_ground_truth_sheet(tiles, title), args.output)


def tiles_of(
    split: Split, sampler: WindowBatchSampler, loader: WatchedLoader, only_with_boxes: bool
) -> Iterator[AnnotatedImage]:
    """The images of the epoch in sampling order, with their steps, which only the sampler knows."""
    for keys, batch in zip(sampler, loader, strict=True):
        for row, key in enumerate(keys):
            if len(batch.targets[row]["labels"]) or not only_with_boxes:
                again = f", shown before: {key.repeat}" if key.repeat else ""
                yield tile_of(split, batch, row, f"step {key.window}{again}")


def tile_of(split: Split, batch: Batch, row: int, place: str) -> AnnotatedImage:
    """One image of a batch with its padding, and its boxes in pixels."""
    target = batch.targets[row]
    names = short_names(split.names)
    height, width = target["size"].tolist()
    boxes = cxcywh_to_xyxy(target["boxes"].double()).numpy() * [width, height, width, height]
    pixels = batch.images[row].expand(3, -1, -1).permute(1, 2, 0).numpy().copy()
    pixels[batch.mask[row].numpy()] = PADDING
    counted = f"{len(boxes)} box" + "es" * (len(boxes) != 1)
    caption = f"{label(split.files_by_id[int(target['image_id'])])}\n{place}, {width} x {height}, {counted}"
    return annotate_ground_truth(pixels, caption, boxes, [names[k] for k in target["labels"].tolist()])


if __name__ == "__main__":
    run_program(main)
