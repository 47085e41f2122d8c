"""Read YOLO labels: a text file per image, a line "class cx cy w h" per box, in shares of the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datasets.annotations.records import LabelledBox
from util.base.errors import DataError

LONGEST_YAML = 1 << 16  # characters, and levels: PyYAML takes minutes for thousands
DEEPEST_YAML = 10
ROUNDING = 1e-4  # by which shares of the image may exceed 1


def read_class_names(content: bytes, file: Path) -> dict[int, str]:
    """Names of the classes by their number, as a classes.txt or data.yaml states them; empty where it has none.

    Raises:
        DataError: it is no YAML, or a class has no number.
    """
    if file.suffix not in (".yaml", ".yml"):
        lines = content.decode("utf-8-sig", errors="replace").splitlines()
        return dict(enumerate(line.strip().strip("'\"") for line in lines if line.strip()))
    names = read_yaml(content, file).get("names")
    if isinstance(names, dict):
        if not all(type(number) is int and number >= 0 for number in names):
            raise DataError(f"{file}: the keys of 'names' must be the numbers of the classes, 0, 1, ...; correct it")
        return {number: str(name) for number, name in sorted(names.items())}
    return dict(enumerate(map(str, names))) if isinstance(names, list) else {}


def read_yaml(content: bytes, file: Path) -> dict[str, Any]:
    """The mapping that a data.yaml holds; empty where it holds something else.

    Raises:
        DataError: it is no YAML, or of a kind that takes long to read.
    """
    text = content.decode("utf-8-sig", errors="replace")
    try:
        if len(text) > LONGEST_YAML:
            raise ValueError(f"it has more than {LONGEST_YAML} characters")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_YAML:
                raise ValueError(f"it has aliases, or more than {DEEPEST_YAML} levels")
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:  # the last two of odd tags
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: cannot be read as YAML ({reason}); write the classes into classes.txt") from error
    return loaded if isinstance(loaded, dict) else {}


def parse_labels(
    content: bytes, file: Path, classes: Mapping[int, int], size: tuple[int, int], *, has_points: bool = False
) -> list[LabelledBox]:
    """(category id, [x, y, w, h]) in pixels of an image of `size` (height, width); a polygon becomes its box.

    Args:
        content: the file's bytes.
        file: what messages call it.
        classes: category ids by the number of the class.
        size: (height, width) pixels of the image.
        has_points: key points follow each box, of data for poses; they are left out.

    Raises:
        DataError: a line is no box, or its class has no name.
    """
    boxes: list[LabelledBox] = []
    height, width = size
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        box = _parse_line(line, has_points)
        if box is None or box[0] not in classes:
            known = f"0 to {len(classes) - 1}" if set(classes) == set(range(len(classes))) else str(sorted(classes))
            raise DataError(
                f"{file}: line {number} must be 'class cx cy w h', a class from {known} and shares of "
                f"the image, got {line[:60]!r}; correct the file, or leave it out"
            )
        label, cx, cy, w, h = box
        boxes.append((classes[int(label)], [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]))
    return boxes


def _parse_line(line: str, has_points: bool) -> tuple[float, ...] | None:
    """(class, cx, cy, w, h), or the box around 'class x y x y x y ...'; None where the line is neither."""
    try:
        values = tuple(map(float, line.split()))
    except ValueError:
        return None
    shares = values[1:5] if has_points else values[1:]
    if not all(0 <= share <= 1 + ROUNDING for share in shares):  # false for nan
        return None
    if len(shares) >= 6 and len(shares) % 2 == 0:
        left, right = (extreme(shares[0::2]) for extreme in (min, max))
        top, bottom = (extreme(shares[1::2]) for extreme in (min, max))
        shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return (values[0], *shares) if len(shares) == 4 else None
