"""Correct the file names of an annotation file that differ from those of its images."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from datasets.annotations.layout import COCO, recognise_layout
from datasets.annotations.name_matching import leaves_folder, match_names, missing_names
from datasets.annotations.records import read_records
from util.base.errors import DataError
from util.base.files import WriteError, write_atomically
from util.base.reading import read_document


class RepairedNames(NamedTuple):
    """A COCO-format file with the names of the image files that are there."""

    document: dict[str, Any]  # the whole content; all but `file_name` is unchanged
    counts: dict[str, int]  # by rule, such as "drop the prefix 'images/'": the names it corrected
    unmatched: list[str]  # names without a file, left as they are: no file, or more than one, has a similar name


def repair_file_names(annotation_file: Path, image_dir: Path) -> RepairedNames:
    """Replace every `file_name` without a file by the file it means, with another prefix, ending, case or encoding.

    Nothing is written. A name that could mean two files, or a file that two names could mean, is left as it is.

    Raises:
        DataError: the annotation file cannot be read, or a record has no `file_name`.
    """
    names = read_records(annotation_file, ("images",))["images"].texts("file_name")
    document = json.loads(read_document(annotation_file))
    matches = match_names(image_dir, names)
    for record in document["images"]:
        if match := matches.get(record["file_name"]):
            record["file_name"] = match.file
    lost = [*filter(leaves_folder, names), *missing_names(image_dir, names)]
    counts = Counter(matches[name].rule for name in names if name in matches)
    return RepairedNames(document, dict(counts), [name for name in lost if name not in matches])


def write_repaired_folder(root: Path, out: Path) -> dict[str, RepairedNames]:
    """Make `out` a data folder like `root`, with corrected file names and links to its images; return each list.

    Raises:
        DataError: `root` has no annotation files in a known layout, or they cannot be read; `out` is not empty.
        WriteError: `out` cannot be written.
    """
    kind = recognise_layout(root) or COCO
    names = kind.lists(root)
    if not names:
        kind.find_split(root, "")  # raises the error that explains it
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; give --output_dir an empty folder")
    places = {name: kind.find_split(root, name) for name in names}
    repaired = {name: repair_file_names(file, folder) for name, (folder, file) in places.items()}
    try:
        for folder in {folder for folder, _ in places.values()}:
            _link(root, folder, out)
    except OSError as error:
        raise WriteError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    for name in places:  # at the usual place: beside the images of other layouts a link would lead into `root`
        write_atomically(out / kind.annotations.format(name), partial(_write_json, repaired[name].document))
    return repaired


def _link(root: Path, folder: Path, out: Path) -> None:
    """Link an image folder, or, where annotation files lie in it, all that it holds but these."""
    holds_lists = any(path.suffix == ".json" for path in folder.iterdir())
    beside = [path for path in folder.iterdir() if path.suffix != ".json" and (folder != root or path.is_file())]
    for source in beside if holds_lists else [folder]:
        link = out / source.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve())


def _write_json(document: dict[str, Any], file: IO[bytes]) -> None:
    file.write(json.dumps(document).encode())
