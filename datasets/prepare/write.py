"""Write a data folder: first into a temporary folder, then renamed, the annotations last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from datasets.annotations.layout import COCO, recognise_layout
from datasets.annotations.records import Records
from datasets.annotations.split import Split, load_split
from datasets.annotations.split_names import CLEAN_SUFFIX, side_of
from datasets.prepare.convert import CocoPlan
from datasets.prepare.plan import FolderPlan
from datasets.prepare.tree import Tree
from util.base.console import Progress
from util.base.errors import DataError
from util.base.files import WriteError, write_atomically
from util.base.reading import read_document

UNFINISHED_FOLDER = ".unfinished"
SPARE = 50_000_000  # bytes that stay free


def write_plan(plan: FolderPlan, out: Path) -> None:
    """Fill `out`, which is empty, not there, or the official folder that the plan was made from.

    An interrupted call leaves no annotation file, so that the folder is no data set; the next call restarts.

    Raises:
        DataError: `out` holds something else, or a file of the source cannot be read.
        WriteError: the disk is full, or `out` cannot be written.
    """
    if is_in_place(plan, out):
        for name in plan.built:
            _write_list(out, name, plan.splits[name], plan.documents[name])
        return
    fill_new_folder(out, lambda folder: _fill(plan, folder))


def fill_new_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Fill `out`, which is empty or not there, by a function that writes into the folder that it gets.

    Raises:
        DataError: `out` holds something, or `fill` raises it.
        WriteError: the disk is full, or `out` cannot be written.
    """
    held = sorted(path.name for path in out.iterdir() if path.name != UNFINISHED_FOLDER) if out.is_dir() else []
    if held or (out.exists() and not out.is_dir()):
        raise DataError(f"{out}: is not empty ({', '.join(held[:3]) or 'a file'}); give --output_dir an empty folder")
    beside = out / UNFINISHED_FOLDER
    is_new = not out.exists()
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        fill(beside)
        for folder in sorted(beside.iterdir(), key=lambda path: path.name == "annotations"):
            folder.replace(out / folder.name)
    except OSError as error:
        raise WriteError(
            f"{out}: cannot be written ({error.strerror or error}); free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def write_coco(plan: CocoPlan, out: Path) -> None:
    """Fill `out`, which is empty or not there, with a folder in the COCO layout.

    Raises:
        DataError, WriteError: as in `fill_new_folder`.
    """

    def fill(folder: Path) -> None:
        copy_files(plan.tree, plan.files, folder)
        for name, content in plan.documents.items():
            _write(folder / "annotations" / f"{name}.json", content)

    fill_new_folder(out, fill)


def is_in_place(plan: FolderPlan, out: Path) -> bool:
    """Whether `out` is the official folder that the plan was made from."""
    official = os.path.realpath(plan.download.tree.root / plan.root)
    return not plan.is_moved and plan.download.tree.root.is_dir() and os.path.realpath(out) == official


def write_clean_lists(root: Path, leaked: set[str]) -> dict[str, int]:
    """Write a copy of every training list, NAME_clean, without the images `leaked`; return images by list.

    Validation keeps its images, so that its metrics compare with those of others.
    """
    if recognise_layout(root) is COCO:
        names = [name for name in COCO.lists(root) if side_of(name) == "train"]
        lists = {name: COCO.find(root, name).annotation_file for name in names}
    else:
        lists = {path.stem: path for path in sorted((root / "annotations/json").glob("*_train.json"))}
    written = {}
    for list_name, path in lists.items():
        content = json.loads(read_document(path))
        ids = Records(path, "images", content["images"]).image_ids("id").tolist()  # 1 and "1" are the same
        of_boxes = Records(path, "annotations", content["annotations"]).image_ids("image_id").tolist()
        kept = {i for i, image in zip(ids, content["images"], strict=True) if image["file_name"] not in leaked}
        content["images"] = [image for i, image in zip(ids, content["images"], strict=True) if i in kept]
        content["annotations"] = [box for i, box in zip(of_boxes, content["annotations"], strict=True) if i in kept]
        name = f"{list_name}{CLEAN_SUFFIX}"
        written[name] = len(content["images"])
        if recognise_layout(root) is COCO:
            _write(root / COCO.annotations.format(name), json.dumps(content).encode())
            continue
        (root / "lists" / f"{name}.txt").unlink(missing_ok=True)
        split = load_split(root / "imgs", path)
        split = split.without(np.flatnonzero(np.isin(split.file_names, sorted(leaked))))
        _write_list(root, name, split, json.dumps(content).encode())
    return written


def _fill(plan: FolderPlan, folder: Path) -> None:
    tree = plan.download.tree
    files = {f"imgs/{name}": file for name, file in plan.images.items()}
    files |= {f"annotations/xml/{name}": file for name, file in plan.xml.items()}
    copy_files(tree, files, folder)
    (folder / "imgs").mkdir(exist_ok=True)
    for name, content in plan.documents.items():
        _write_list(folder, name, plan.splits[name], content)


def copy_files(tree: Tree, files: Mapping[str, str], folder: Path) -> None:
    """Hard-link, copy or unpack files of a tree, by their new names, into `folder`.

    Raises:
        DataError: the disk is too small, or a file cannot be read.
    """
    needed = sum(tree.sizes[file] for file in files.values())
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free and not tree.root.is_dir():
        raise DataError(
            f"{folder.parent}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; choose another disk"
        )
    progress = Progress("writing the images", len(files), "files")
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tree.copy_to(file, folder / name)
        progress.advance()
    progress.close()


def _write_list(folder: Path, name: str, split: Split, content: bytes) -> None:
    """Write the json file, and the list of its names unless that exists."""
    text = folder / "lists" / f"{name}.txt"
    if not name.endswith("_only_tb") and not text.exists():
        lines = "".join(f"{member}\n" for member in split.file_names.tolist())
        _write(text, lines.encode(errors="backslashreplace"))
    _write(folder / "annotations/json" / f"{name}.json", content)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
