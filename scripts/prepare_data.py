"""Check a data folder, or convert one of another format to the COCO layout that training reads.

    python scripts/prepare_data.py DIR                           # what DIR is, and what its lists hold
    python scripts/prepare_data.py DIR --output_dir data/OWN     # convert it, divide it where it has one list
    python scripts/prepare_data.py data/OWN --check              # look for defects of images and annotations
    python scripts/prepare_data.py data/OWN --output_dir data/OWN --drop_leaked

DIR is a folder or a zip file: COCO lists as many tools lay them out, Ultralytics YOLO, Pascal VOC, a CSV with a row per
box, or a download of TBX11K. Nothing is written outside --output_dir; images there are second names of the same files
(hard links), or copies where the disk is another one. Exit code 2: there is an error to fix.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.annotations.layout import COCO, recognise_layout
from datasets.checks.folder import FolderCheck, check_folder
from datasets.prepare.convert import CocoPlan, plan_coco
from datasets.prepare.counts import compare_with_published, count_lists
from datasets.prepare.divide import VAL_FRACTION, divide
from datasets.prepare.formats.table import FORMATS, read_collection
from datasets.prepare.names import write_repaired_folder
from datasets.prepare.plan import FolderPlan, make_plan
from datasets.prepare.source import is_tbx11k, recognise
from datasets.prepare.tree import Tree, open_tree
from datasets.prepare.write import write_clean_lists, write_coco, write_plan
from util.base.console import echo
from util.base.errors import DataError, UserError
from util.base.text import first_few, printable
from util.config.command_line import Parser, add_depth_argument, hide_aliases
from util.distributed.exit_codes import FINISHED, MISTAKE
from util.images.depth import DepthSetting


def main(arguments: list[str] | None = None, *, expects_tbx11k: bool = False, description: str | None = None) -> int:
    """Prepare, check; 2 when an error was found."""
    args = parse_args(arguments, description or __doc__, expects_tbx11k)
    try:
        return work(args, expects_tbx11k)
    except RecursionError as error:
        raise UserError(f"{args.dir}: a file is nested too deeply ({error})") from error


def parse_args(arguments: list[str] | None, description: str | None, expects_tbx11k: bool) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description)
    add = parser.add_argument
    add("dir", type=Path, metavar="DIR", help="the data: a folder or a zip file")
    output = "folder to fill: empty, not there yet, or DIR to complete it in place"
    hide_aliases(add("--output_dir", "--out", type=Path, metavar="FOLDER", help=output))
    add("--follow_links", action="store_true", help="take files outside DIR that links in it lead to, too")
    add("--dry_run", action="store_true", help="say what would be written, and write nothing")
    add("--check", action="store_true", help="read every image and annotation, and list the defects")
    leaked = "write training lists *_clean without images that are in validation too"
    add("--drop_leaked", action="store_true", help=leaked)
    add("--fix_names", action="store_true", help="write lists with the names of the image files that are there")
    if not expects_tbx11k:
        add("--format", choices=sorted(FORMATS), help="of the annotations, where DIR has several")
        share = f"of images for validation, where DIR has one list (default: {VAL_FRACTION})"
        add("--val_fraction", type=float, metavar="SHARE", help=share)
        add("--seed", type=int, default=0, help="of the division into training and validation (default: 0)")
    add_depth_argument(parser)
    args = parser.parse_args(arguments)
    if args.drop_leaked and not args.output_dir:
        parser.error("--drop_leaked writes lists: say --output_dir FOLDER, which may be DIR itself")
    if args.fix_names and not args.output_dir:
        parser.error("--fix_names writes a folder with links to the images: say --output_dir FOLDER")
    if not expects_tbx11k and args.val_fraction is not None and not 0 < args.val_fraction < 1:
        parser.error(f"--val_fraction must be between 0 and 1, got {args.val_fraction:g}")
    return args


def work(args: argparse.Namespace, expects_tbx11k: bool) -> int:
    """Prepare and check as the flags request; return the exit code."""
    if args.fix_names:
        return fix_names(args)
    if args.check and not args.output_dir and args.dir.is_dir() and recognise_layout(args.dir):
        return report(check(args.dir, args.image_depth))
    tree = open_tree(args.dir, follows_links=args.follow_links)
    if not (expects_tbx11k or (args.format is None and is_tbx11k(tree))):
        return work_on_own(args, tree)
    plan = make_plan(recognise(tree))
    for note in plan.notes:
        echo(f"note: {note}")
    root = prepare(args, plan)
    table, differences = compare_with_published(plan.images, plan.splits)
    echo(f"\n{table}\n")
    echo("\n".join(differences) or "every count is the published one")
    return check_prepared(args, root)


def fix_names(args: argparse.Namespace) -> int:
    """Write the lists with corrected file names; return the exit code, of the check where that is requested."""
    if args.dry_run:
        raise UserError("--fix_names --dry_run: --check alone names what --fix_names would correct")
    unmatched = 0
    for name, repaired in write_repaired_folder(args.dir, args.output_dir).items():
        rules = ", ".join(f"{count} names: {rule}" for rule, count in repaired.counts.items())
        lost = f"; {len(repaired.unmatched)} stay: {first_few(repaired.unmatched)}" if repaired.unmatched else ""
        echo(printable(f"{name}: {rules or 'no name corrected'}{lost}"))
        unmatched += len(repaired.unmatched)
    echo(f"written: --data_path {printable(str(args.output_dir))}")
    if args.check:
        return report(check(args.output_dir, args.image_depth))
    return MISTAKE if unmatched else FINISHED


def check_prepared(args: argparse.Namespace, root: Path | None) -> int:
    """Check the data folder and write the lists without leaked images, where requested; return the exit code."""
    if root is None or not (args.check or args.drop_leaked):
        return FINISHED
    echo()
    checked = check(root, args.image_depth)
    if args.drop_leaked and not args.dry_run:
        drop_leaked(root, checked)
    return report(checked)


def work_on_own(args: argparse.Namespace, tree: Tree) -> int:
    """Convert anybody's data to the COCO layout where requested, and check it; return the exit code."""
    is_ready = args.dir.is_dir() and is_readable(args.dir)
    if is_ready and (not args.output_dir or args.output_dir.resolve() == args.dir.resolve()):
        spare = [name for name in COCO.lists(args.dir) if COCO.is_spare(args.dir, name)]
        splits = {name: COCO.load(args.dir, name) for name in COCO.lists(args.dir) if name not in spare}
        if spare and not args.check:
            echo(f"warning: lists without images, which training on train and val does not need: {first_few(spare)}")
        echo(f"{args.dir}: training reads it as it is: {training_options(args.dir)}")
        echo(f"\n{count_lists(splits)}")
        return check_prepared(args, args.dir)
    collection = read_collection(tree, args.format)
    divide(collection, args.val_fraction, args.seed)
    plan = plan_coco(collection)
    echo(f"{args.dir}: {collection.title} annotations")
    for note in collection.notes:
        echo(f"note: {note}")
    root = write_own(args, plan)
    echo(f"\n{count_lists(plan.splits)}")
    return check_prepared(args, root)


def is_readable(root: Path) -> bool:
    """Whether training finds a list for training and one for validation in a folder."""
    if recognise_layout(root) is not COCO:
        return False
    try:
        return all(COCO.find(root, side) for side in ("train", "val"))
    except DataError:
        return False


def write_own(args: argparse.Namespace, plan: CocoPlan) -> Path | None:
    """Write the data folder where requested; return it, None where there is none yet."""
    content = f"{len(plan.files)} images and {len(plan.documents)} annotation files"
    if not args.output_dir:
        if args.dry_run:
            return None
        raise DataError(f"{args.dir}: cannot be trained from as it is; give --output_dir FOLDER to write {content}")
    if args.dry_run:
        echo(f"would write {content} to {args.output_dir}")
        return None
    write_coco(plan, args.output_dir)
    echo(f"written: {content}: {training_options(args.output_dir)}")
    return args.output_dir


def training_options(root: Path) -> str:
    """What to give main.py."""
    return f"--data_path {printable(str(root))} --options dataset_file=coco train_list=train val_list=val"


def prepare(args: argparse.Namespace, plan: FolderPlan) -> Path | None:
    """Write the folder of TBX11K where requested; return it, None where there is none yet."""
    is_folder = args.dir.is_dir()
    in_place = args.dir / plan.root if is_folder and not plan.is_moved else None
    todo = [f"annotation files to build: {', '.join(plan.built)}"] if plan.built else []
    if not is_folder:
        todo.append("files to unpack")
    elif plan.is_moved:
        todo.append("images to lay out")
    echo(f"{args.dir}: {'; '.join(todo) or f'in the official layout: --data_path {in_place}'}")
    if args.dry_run:
        if args.output_dir:
            content = f"{len(plan.images)} images and {len(plan.documents)} annotation files"
            echo(f"would write {content} to {args.output_dir}")
        return in_place
    if args.output_dir:
        write_plan(plan, args.output_dir)
        echo(f"written: --data_path {args.output_dir}")
        return args.output_dir
    if todo:
        raise DataError(f"{args.dir}: cannot be trained from as it is ({'; '.join(todo)}); give --output_dir FOLDER")
    return in_place


def check(root: Path, image_depth: DepthSetting) -> FolderCheck:
    """Check a data folder, with messages that name the options of this script."""
    return check_folder(root, image_depth, depth_knob="--image_depth ")


def drop_leaked(root: Path, checked: FolderCheck) -> None:
    """Write the clean lists, and name the images that they leave out."""
    leaked = checked.leaked_names
    for name, count in write_clean_lists(root, leaked).items():
        echo(f"written: {name}, {count} images: --options train_list={name}")
    echo(f"left out: {len(leaked)} images{': ' + first_few(sorted(leaked)) if leaked else ''}\n")


def report(checked: FolderCheck) -> int:
    """Print one line per kind of defect; return the exit code."""
    order = ("error", "warning", "note")
    for finding in sorted(checked.findings, key=lambda finding: order.index(finding.severity)):
        echo(f"{finding.severity}: {finding.text}")
    counts = [sum(finding.severity == severity for finding in checked.findings) for severity in order]
    echo("checked: {} errors, {} warnings, {} notes".format(*counts))
    return MISTAKE if counts[0] else FINISHED


if __name__ == "__main__":
    run_program(main)
