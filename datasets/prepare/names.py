"""Correct the file names of an annotation file that differ from those of its images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations.name_matching import leaves_folder, match_names, missing_names
from datasets.annotations.records import read_records
from util.base.files import write_atomically
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


def write_repaired_list(annotation_file: Path, image_dir: Path, target: Path) -> RepairedNames:
    """Write the annotation file with corrected names to `target`; return what was changed.

    Raises:
        DataError: as in `repair_file_names`.
        WriteError: `target` cannot be written.
    """
    repaired = repair_file_names(annotation_file, image_dir)
    write_atomically(target, lambda file: file.write(json.dumps(repaired.document).encode()))
    return repaired
