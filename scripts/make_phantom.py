#!/usr/bin/env python
"""Render a synthetic TBX11K in the real layout.

    python scripts/make_phantom.py --output_dir data/phantom --train 400 --val 100 --seed 0
    python scripts/make_phantom.py --output_dir data/phantom_like --like TBX11K --limit 24
    python scripts/make_phantom.py --sheet docs/images/phantom.png

With --like, images that exist below DIR/imgs are kept and the missing ones drawn around the real boxes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.phantom.like import plan_like
from datasets.phantom.plan import check_seed, plan_cohort
from datasets.phantom.render import Case, render_case
from datasets.phantom.statistics import ACTIVE, LATENT, POSITIVE_FRACTION, sample_lesions
from datasets.phantom.write import write_phantom
from util.base.console import Progress, echo
from util.base.processes import usable_cores
from util.base.seed import derive_rng
from util.config.command_line import Parser, hide_aliases

SHEET_ROWS = 2
SHEET_TILE = 204
LESION_COLOURS = {ACTIVE: (255, 90, 60), LATENT: (70, 170, 255)}


def main() -> None:
    """Make what the command line asks for."""
    parser = build_parser()
    args = parser.parse_args()
    if args.sheet:
        check_seed(args.seed)
        draw_sheet(args.sheet, args.seed)
        return
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
    progress = Progress("drawing the images", len(plan.pictures), "images")
    workers = usable_cores() if args.workers is None else args.workers
    if write_phantom(plan, args.output_dir, workers, progress.advance):
        progress.close()
        boxes = sum(len(plan.documents[n]["annotations"]) for n in plan.documents if n == "all_trainval")
        echo(f"{args.output_dir}: {len(plan.pictures)} images, {boxes} boxes in trainval")
    else:
        echo(f"{args.output_dir} holds exactly this phantom already; nothing to do")


def build_parser() -> Parser:
    """All options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    goal = parser.add_mutually_exclusive_group(required=True)
    output = "folder to fill: empty or not there yet"
    hide_aliases(goal.add_argument("--output_dir", "--out", type=Path, metavar="DIR", help=output))
    goal.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet of examples instead")
    add("--train", type=int, metavar="N", help="training images")
    add("--val", type=int, metavar="N", help="validation images")
    add("--seed", type=int, default=0, help="root of all randomness (default: 0)")
    add("--positive_fraction", type=float, metavar="F", help="share of TB images (default: 0.091)")
    add("--size", type=int, help="side of the images, pixels (default: 512)")
    add("--like", type=Path, metavar="DIR", help="follow the annotations of this TBX11K folder")
    add("--limit", type=int, metavar="N", help="with --like: cut every list to at most N images")
    add("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def refuse(parser: Parser, args: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    """Raise an error if one of `options` was given."""
    for option in options:
        if getattr(args, option) is not None:
            parser.error(f"--{option} {why}")


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
