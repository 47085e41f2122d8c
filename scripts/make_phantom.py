#!/usr/bin/env python
"""Render a synthetic TBX11K in the real layout.

    python scripts/make_phantom.py --out data/phantom --train 400 --val 100 --seed 0
    python scripts/make_phantom.py --out data/phantom_like --like TBX11K --limit 24
    python scripts/make_phantom.py --sheet docs/images/phantom.png

With --like, images that exist below DIR/imgs are kept and the missing ones drawn around the real boxes.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.phantom.like import plan_like
from datasets.phantom.plan import PhantomError, check_seed, plan_cohort
from datasets.phantom.render import Case, render_case
from datasets.phantom.statistics import ACTIVE, LATENT, POSITIVE_FRACTION, sample_lesions
from datasets.phantom.write import write_phantom
from util.base.console import echo
from util.base.errors import WorkerDied
from util.base.seed import derive_rng

SHEET_ROWS, SHEET_TILE = 2, 204
LESION_COLOURS = {ACTIVE: (255, 90, 60), LATENT: (70, 170, 255)}


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str) -> None:
        """Print `message` and end with status 2."""
        self.exit(2, f"make_phantom: {message}\n")


def main() -> None:
    """Read the command line, make what it asks for."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        if args.sheet:
            check_seed(args.seed)
            draw_sheet(args.sheet, args.seed)
        else:
            make(parser, args)
    except WorkerDied as error:
        parser.exit(1, f"make_phantom: {error}\n")
    except (PhantomError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, "\nmake_phantom: interrupted; the same command begins anew\n")


def build_parser() -> OneLineParser:
    """All options."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, metavar="DIR", help="folder to fill: empty or not there yet")
    goal.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet of examples instead")
    parser.add_argument("--train", type=int, metavar="N", help="training images")
    parser.add_argument("--val", type=int, metavar="N", help="validation images")
    parser.add_argument("--seed", type=int, default=0, help="root of all randomness (default 0)")
    parser.add_argument("--positive_fraction", type=float, metavar="F", help="share of TB images (default 0.091)")
    parser.add_argument("--size", type=int, help="side of the images, pixels (default 512)")
    parser.add_argument("--like", type=Path, metavar="DIR", help="follow the annotations of this TBX11K folder")
    parser.add_argument("--limit", type=int, metavar="N", help="with --like: cut every list to at most N images")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def make(parser: OneLineParser, args: argparse.Namespace) -> None:
    """Write the phantom."""
    if args.workers is not None and args.workers < 0:
        parser.error(f"--workers must be at least 0, got {args.workers}")
    if args.like:
        refuse(parser, args, ("train", "val", "positive_fraction", "size"), "has no meaning with --like")
        plan = plan_like(args.like, args.seed, args.limit)
    else:
        refuse(parser, args, ("limit",), "needs --like")
        if args.train is None or args.val is None:
            parser.error("--train and --val are needed, or --like DIR")
        share = POSITIVE_FRACTION if args.positive_fraction is None else args.positive_fraction
        plan = plan_cohort(args.train, args.val, args.seed, share, 512 if args.size is None else args.size)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers if args.workers is None else args.workers
    if write_phantom(plan, args.out, workers, Progress()):
        boxes = sum(len(plan.documents[n]["annotations"]) for n in plan.documents if n == "all_trainval")
        echo(f"{args.out}: {len(plan.pictures)} images, {boxes} boxes in trainval")
    else:
        echo(f"{args.out} holds exactly this phantom already; nothing to do")


def refuse(parser: OneLineParser, args: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    """End with an error if one of `options` was given."""
    for option in options:
        if getattr(args, option) is not None:
            parser.error(f"--{option} {why}")


class Progress:
    """Says how far the drawing is: a running line on a terminal, a line per tenth elsewhere."""

    def __init__(self) -> None:
        self.start, self.tenth = time.monotonic(), 0

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` images are written."""
        seconds = max(time.monotonic() - self.start, 1e-6)
        rate = done / seconds
        line = f"{done}/{total} images, {rate:.1f}/s, {(total - done) / rate:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r{line:<60}", end="\n" if done == total else "", flush=True)
        elif done * 10 // total > self.tenth:
            self.tenth = done * 10 // total
            echo(line)


def draw_sheet(path: Path, seed: int) -> None:
    """A contact sheet: active TB, latent TB, sick, healthy; below each TB image the same one without its boxes."""
    tile = SHEET_TILE
    sheet = Image.new("RGB", (4 * tile, 2 * SHEET_ROWS * tile))
    for row in range(SHEET_ROWS):
        for column, name in enumerate(("active", "latent")):
            lesions = lesions_of(LATENT if column else ACTIVE, seed, row)
            plain = draw_tile(Case(f"{name}{row}", seed, "tb", lesions), tile)
            sheet.paste(plain, (column * tile, (2 * row + 1) * tile))
            sheet.paste(with_boxes(plain, lesions), (column * tile, 2 * row * tile))
        for column, kind in ((2, "sick"), (3, "health")):
            for half in (0, 1):
                case = Case(f"{kind}{2 * row + half}", seed, kind)
                sheet.paste(draw_tile(case, tile), (column * tile, (2 * row + half) * tile))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
    echo(f"{path}: columns active TB, latent TB, sick, healthy")


def lesions_of(category: int, seed: int, row: int) -> tuple:
    """Lesions of one category only."""
    rng = derive_rng(seed, "sheet", category, row)
    while True:
        lesions = sample_lesions(rng)
        if {lesion.category for lesion in lesions} == {category}:
            return lesions


def draw_tile(case: Case, tile: int) -> Image.Image:
    """The case at 512 px, made smaller."""
    grey = Image.fromarray(render_case(case, 512)).resize((tile - 2, tile - 2), Image.Resampling.LANCZOS)
    return Image.fromarray(np.repeat(np.asarray(grey)[..., None], 3, axis=2))


def with_boxes(image: Image.Image, lesions: tuple) -> Image.Image:
    """A copy with every lesion's box drawn."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    for lesion in lesions:
        x, y, w, h = (side * image.width for side in lesion.box)
        pen.rectangle((x, y, x + w, y + h), outline=LESION_COLOURS[lesion.category], width=2)
    return copy


if __name__ == "__main__":
    run_program(main)
