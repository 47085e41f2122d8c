"""Make a training-ready folder of TBX11K from a download of any layout, and check it.

    python scripts/prepare_tbx11k.py DIR                           # compare with the published counts
    python scripts/prepare_tbx11k.py DIR --output_dir data/TBX11K  # lay it out, build missing annotation files
    python scripts/prepare_tbx11k.py data/TBX11K --check           # look for defects of images and annotations
    python scripts/prepare_tbx11k.py data/TBX11K --output_dir data/TBX11K --drop_leaked

DIR is a folder or a zip file: the official layout, also a level deeper, all images in one folder, JPEG for PNG, YOLO
labels, or VOC xml alone. Nothing is written outside --output_dir; images there are second names of the same files (hard
links), or copies where the disk is another one. --check takes a COCO-format folder too. Exit code 2: there is an error
to fix.
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.annotations.layout import recognise_layout
from datasets.checks.folder import FolderCheck, check_folder
from datasets.prepare.counts import compare_with_published
from datasets.prepare.plan import FolderPlan, make_plan
from datasets.prepare.source import recognise
from datasets.prepare.tree import open_tree
from datasets.prepare.write import write_clean_lists, write_plan
from util.base.console import echo
from util.base.errors import DataError, UserError
from util.base.text import first_few
from util.config.command_line import Parser, add_depth_argument, hide_aliases
from util.distributed.exit_codes import FINISHED, MISTAKE


def main(arguments: list[str] | None = None) -> int:
    """Prepare, check; 2 when an error was found."""
    args = parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a damaged file may hold what no terminal can show
    try:
        return work(args)
    except RecursionError as error:
        raise UserError(f"{args.dir}: a file is nested too deeply ({error})") from error


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("dir", type=Path, metavar="DIR", help="the download: a folder or a zip file")
    output = "folder to fill: empty, not there yet, or DIR to complete it in place"
    hide_aliases(add("--output_dir", "--out", type=Path, metavar="FOLDER", help=output))
    add("--follow_links", action="store_true", help="take files outside DIR that links in it lead to, too")
    add("--dry_run", action="store_true", help="say what would be written, and write nothing")
    add("--check", action="store_true", help="read every image and annotation, and list the defects")
    add(
        "--drop_leaked", action="store_true", help="write lists *_train_clean without images that are in validation too"
    )
    add_depth_argument(parser)
    args = parser.parse_args(arguments)
    if args.drop_leaked and not args.output_dir:
        parser.error("--drop_leaked writes lists: say --output_dir FOLDER, which may be DIR itself")
    return args


def work(args: argparse.Namespace) -> int:
    """Prepare and check as the flags request; return the exit code."""
    if args.check and not args.output_dir and args.dir.is_dir() and recognise_layout(args.dir):
        return report(check_folder(args.dir, args.image_depth))
    plan = make_plan(recognise(open_tree(args.dir, follows_links=args.follow_links)))
    for note in plan.notes:
        echo(f"note: {note}")
    root = prepare(args, plan)
    table, differences = compare_with_published(plan.images, plan.splits)
    echo(f"\n{table}\n")
    echo("\n".join(differences) or "every count is the published one")
    if root is None or not (args.check or args.drop_leaked):
        return FINISHED
    echo()
    checked = check_folder(root, args.image_depth)
    if args.drop_leaked and not args.dry_run:
        drop_leaked(root, checked)
    return report(checked)


def prepare(args: argparse.Namespace, plan: FolderPlan) -> Path | None:
    """Write the data folder where requested; return it, None where there is none yet."""
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
