"""YOLO labels: a text file per image, a line "class cx cy w h" per box, in shares of the image."""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml

from datasets.annotations.tbx11k import CATEGORIES
from util.base.errors import DataError

# What re-uploads call the categories, without spaces and case.
ALIASES = {
    "activetuberculosis": 1,
    "activetb": 1,
    "active": 1,
    "obsoletepulmonarytuberculosis": 2,
    "latenttuberculosis": 2,
    "latenttb": 2,
    "latent": 2,
    "obsolete": 2,
    "pulmonarytuberculosis": 3,
    "uncertaintuberculosis": 3,
    "uncertain": 3,
}
LONGEST_YAML = 1 << 16  # characters, and levels: PyYAML takes minutes for thousands
DEEPEST_YAML = 10
Boxes = list[tuple[int, list[float]]]


def read_classes(content: bytes, file: Path) -> list[int]:
    """Category ids of the classes 0, 1, ... that a classes.txt or data.yaml names.

    Raises:
        DataError: it names none, or one that TBX11K does not have.
    """
    text = content.decode("utf-8-sig", errors="replace")
    if file.suffix in (".yaml", ".yml"):
        names = _names_of_yaml(text, file)
    else:
        names = [line.strip().strip("'\"") for line in text.splitlines() if line.strip()]
    keys = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    unknown = [name for name, key in zip(names, keys, strict=True) if key not in ALIASES]
    if unknown or not names:
        what = f"the class '{unknown[0][:60]}' is none of" if unknown else "names no class; those of TBX11K are"
        raise DataError(f"{file}: {what} {', '.join(CATEGORIES.values())}; write one of them per line into classes.txt")
    return [ALIASES[key] for key in keys]


def _names_of_yaml(text: str, file: Path) -> list[str]:
    """The entries of `names:`, a list or a mapping from 0, 1, ...

    Raises:
        DataError: it is no YAML, or of a kind that takes long to read.
    """
    try:
        if len(text) > LONGEST_YAML:
            raise ValueError(f"it has more than {LONGEST_YAML} characters")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_YAML:
                raise ValueError(f"it has aliases, or more than {DEEPEST_YAML} levels")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # the last of odd tags
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: cannot be read as YAML ({reason}); write the classes into classes.txt") from error
    names = content.get("names") if isinstance(content, dict) else None
    names = list(names.values()) if isinstance(names, dict) else names
    return [str(name) for name in names] if isinstance(names, list) else []


def parse_labels(content: bytes, file: Path, classes: list[int], size: tuple[int, int]) -> Boxes:
    """(category id, [x, y, w, h]) in pixels of an image of `size` (height, width).

    Raises:
        DataError: a line is no box, or of a class without a name.
    """
    boxes = []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, cx, cy, w, h = map(float, line.split())
        except ValueError:
            label = cx = cy = w = h = math.nan
        if not (all(0 <= v <= 1 for v in (cx, cy, w, h)) and w * h > 0 and label in range(len(classes))):
            raise DataError(
                f"{file}: line {number} must be 'class cx cy w h', a class from 0 to {len(classes) - 1} and shares of "
                f"the image, got {line[:60]!r}; correct the file, or leave it out"
            )
        height, width = size
        boxes.append((classes[int(label)], [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]))
    return boxes
