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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.phantom import draw_example_sheet, plan_phantom, plan_phantom_like, write_phantom
from util.base.console import Progress, echo
from util.base.processes import usable_cores
from util.config.command_line import Parser, hide_aliases


def main() -> None:
    """Make what the command line asks for."""
    parser = build_parser()
    args = parser.parse_args()
    if args.sheet:
        sheet = draw_example_sheet(args.seed)
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.sheet, optimize=True)
        echo(f"{args.sheet}: columns active TB, latent TB, sick, healthy")
        return
    if args.workers is not None and args.workers < 0:
        parser.error(f"--workers must be at least 0, got {args.workers}")
    if args.like:
        refuse(parser, args, ("train", "val", "positive_fraction", "size"), "has no meaning with --like")
        plan = plan_phantom_like(args.like, args.seed, args.limit)
    else:
        refuse(parser, args, ("limit",), "needs --like")
        if args.train is None or args.val is None:
            parser.error("--train and --val are needed, or --like DIR")
        given = {k: v for k, v in vars(args).items() if k in ("positive_fraction", "size") and v is not None}
        plan = plan_phantom(args.train, args.val, args.seed, **given)
    progress = Progress("drawing the images", len(plan.images), "images")
    workers = usable_cores() if args.workers is None else args.workers
    if write_phantom(plan, args.output_dir, workers, progress.advance):
        progress.close()
        boxes = sum(len(plan.documents[n]["annotations"]) for n in plan.documents if n == "all_trainval")
        echo(f"{args.output_dir}: {len(plan.images)} images, {boxes} boxes in trainval")
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


if __name__ == "__main__":
    run_program(main)
