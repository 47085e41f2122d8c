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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.phantom import PhantomError, draw_example_sheet, plan_phantom, plan_phantom_like, write_phantom
from util.base.console import Progress, echo
from util.base.errors import WorkerDied


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
            sheet = draw_example_sheet(args.seed)
            args.sheet.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(args.sheet, optimize=True)
            echo(f"{args.sheet}: columns active TB, latent TB, sick, healthy")
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
        plan = plan_phantom_like(args.like, args.seed, args.limit)
    else:
        refuse(parser, args, ("limit",), "needs --like")
        if args.train is None or args.val is None:
            parser.error("--train and --val are needed, or --like DIR")
        given = {k: v for k, v in vars(args).items() if k in ("positive_fraction", "size") and v is not None}
        plan = plan_phantom(args.train, args.val, args.seed, **given)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers if args.workers is None else args.workers
    progress = Progress("drawing the images", len(plan.images), "images")
    if write_phantom(plan, args.out, workers, progress.advance):
        progress.close()
        boxes = sum(len(plan.documents[n]["annotations"]) for n in plan.documents if n == "all_trainval")
        echo(f"{args.out}: {len(plan.images)} images, {boxes} boxes in trainval")
    else:
        echo(f"{args.out} holds exactly this phantom already; nothing to do")


def refuse(parser: OneLineParser, args: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    """End with an error if one of `options` was given."""
    for option in options:
        if getattr(args, option) is not None:
            parser.error(f"--{option} {why}")


if __name__ == "__main__":
    run_program(main)
