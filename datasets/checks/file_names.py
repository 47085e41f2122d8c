"""Check the file names of a split: inside the image folder, there, each once."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping

from datasets.annotations.name_matching import NameMatch, leaves_folder, match_names, missing_names
from datasets.annotations.split import Split
from datasets.checks.findings import Finding
from util.base.text import first_few, printable

REPAIR = "python scripts/prepare_data.py {} --output_dir OUT --fix_names writes such a list"


def find_in_file_names(split: Split) -> Iterator[Finding]:
    """Names that leave the image folder, that have no file, or that occur twice."""
    names = split.file_names.tolist()
    has_folder = split.image_dir.is_dir()
    outside = [name for name in names if leaves_folder(name)]
    missing = missing_names(split.image_dir, names) if has_folder else []
    matches = match_names(split.image_dir, names) if outside or missing else {}
    if outside:
        fix = _fix(split, outside, matches, f"give them relative to {split.image_dir}, without '..'")
        text = f"{len(outside)} of {len(names)} file names leave the image folder: {first_few(outside)}; {fix}"
        yield Finding("outside", text)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        text = (
            f"{len(repeated)} images are listed more than once: {first_few(repeated)}; the boxes of one record are "
            "background in the other: keep one record with all boxes"
        )
        yield Finding("repeated_image", text)
    if not has_folder:
        yield Finding("no_folder", f"the image folder {split.image_dir} does not exist; check --data_path")
    elif missing:
        fix = _fix(split, missing, matches, "complete the download, or remove their records")
        text = f"{len(missing)} of {len(names)} images are missing in {split.image_dir}: {first_few(missing)}; {fix}"
        yield Finding("missing", text)


def _fix(split: Split, names: list[str], matches: Mapping[str, NameMatch], otherwise: str) -> str:
    """Which names only differ from their file, by which rule, and how to correct them; `otherwise` for the rest."""
    known = [matches[name] for name in names if name in matches]
    if not known:
        return otherwise
    rules = Counter(match.rule for match in known).most_common()
    counted = first_few([f"{rule} ({count} {'names' if count > 1 else 'name'})" for rule, count in rules])
    rest = len(names) - len(known)
    remaining = f"; {rest} are there under no similar name: {otherwise}" if rest else ""
    return f"{printable(known[0].file)} is there: {counted}; {REPAIR.format(_root(split))}{remaining}"


def _root(split: Split) -> str:
    """The data folder of a split as a word of a command; DIR where it is not known."""
    list_dir = split.annotation_file.parent
    if split.list_name:  # the list is in a folder of the split's name
        return shlex.quote(printable(str(list_dir.parent)))
    try:
        return shlex.quote(printable(os.path.commonpath([list_dir, split.image_dir]) or "."))
    except ValueError:
        return "DIR"
