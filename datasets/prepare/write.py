"""Write a training-ready TBX11K: first into a temporary folder, then renamed, the annotations last."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from datasets.annotations.split import Split, load_split
from datasets.prepare.plan import FolderPlan
from util.base.console import Progress
from util.base.errors import DataError
from util.base.files import WriteError, write_atomically
from util.base.reading import read_document

UNFINISHED_FOLDER = ".unfinished"
SPARE = 50_000_000  # bytes that stay free
CLEAN_SUFFIX = "_clean"


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
    held = sorted(path.name for path in out.iterdir() if path.name != UNFINISHED_FOLDER) if out.is_dir() else []
    if held or (out.exists() and not out.is_dir()):
        raise DataError(f"{out}: is not empty ({', '.join(held[:3]) or 'a file'}); give --output_dir an empty folder")
    beside = out / UNFINISHED_FOLDER
    is_new = not out.exists()
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _fill(plan, beside)
        for folder in ("imgs", "lists", "annotations"):
            (beside / folder).replace(out / folder)
    except OSError as error:
        raise WriteError(
            f"{out}: cannot be written ({error.strerror or error}); free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def is_in_place(plan: FolderPlan, out: Path) -> bool:
    """Whether `out` is the official folder that the plan was made from."""
    official = os.path.realpath(plan.download.tree.root / plan.root)
    return not plan.is_moved and plan.download.tree.root.is_dir() and os.path.realpath(out) == official


def write_clean_lists(root: Path, leaked: set[str]) -> dict[str, int]:
    """Write a copy of every training list, NAME_clean, without the images `leaked`; return images by list.

    Validation keeps its images, so that its metrics compare with those of others.
    """
    written = {}
    for path in sorted((root / "annotations/json").glob("*_train.json")):
        content = json.loads(read_document(path))
        dropped = {image["id"] for image in content["images"] if image["file_name"] in leaked}
        content["images"] = [image for image in content["images"] if image["id"] not in dropped]
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] not in dropped]
        name = f"{path.stem}{CLEAN_SUFFIX}"
        (root / "lists" / f"{name}.txt").unlink(missing_ok=True)
        split = load_split(root / "imgs", path)
        split = split.without(np.flatnonzero(np.isin(split.file_names, sorted(leaked))))
        _write_list(root, name, split, json.dumps(content).encode())
        written[name] = split.num_images
    return written


def _fill(plan: FolderPlan, folder: Path) -> None:
    tree = plan.download.tree
    files = {f"imgs/{name}": file for name, file in plan.images.items()}
    files |= {f"annotations/xml/{name}": file for name, file in plan.xml.items()}
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
    (folder / "imgs").mkdir(exist_ok=True)
    for name, content in plan.documents.items():
        _write_list(folder, name, plan.splits[name], content)


def _write_list(folder: Path, name: str, split: Split, content: bytes) -> None:
    """Write the json file, and the list of its names unless that exists."""
    text = folder / "lists" / f"{name}.txt"
    if not name.endswith("_only_tb") and not text.exists():
        lines = "".join(f"{member}\n" for member in split.file_names.tolist())
        write_atomically(text, lambda file: file.write(lines.encode(errors="backslashreplace")))
    write_atomically(folder / "annotations/json" / f"{name}.json", lambda file: file.write(content))
