"""Compare the category names of a checkpoint and of the data by id: one id must mean one class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.detection.class_map import ClassMap
from util.training.checkpoints.auto_values import recorded_map

CLASS_TABLES = ("class_embed.", "label_enc.")  # tensors with a row per category id


class CategoryError(UserError):
    """The data calls other classes by the category ids of a checkpoint."""


def other_classes(content: Mapping[str, Any], in_data: Mapping[int, str]) -> dict[int, tuple[str | None, str | None]]:
    """Ids that mean another class in a checkpoint than in the data, with both names; None where an id is missing.

    Official and older checkpoints have no names, so nothing is known of their classes.
    """
    if not content.get("category_names"):
        return {}
    in_checkpoint = {int(category): name for category, name in content["category_names"].items()}
    pairs = {i: (in_checkpoint.get(i), in_data.get(i)) for i in sorted({*in_checkpoint, *in_data})}
    return {i: (a, b) for i, (a, b) in pairs.items() if a != b}


def rows_by_name(content: Mapping[str, Any], in_data: Mapping[int, str], classes: ClassMap) -> dict[int, int] | None:
    """Which row of a checkpoint's class tables has the name of each row here, as far as one has.

    None where rows are category ids on both sides: there an id is a class, and `other_classes` compares the names.
    """
    recorded = recorded_map(content)
    if not recorded.ids and not classes.ids:
        return None
    in_checkpoint = {int(category): name for category, name in (content.get("category_names") or {}).items()}
    row_of = dict(zip(in_checkpoint.values(), recorded.indices(in_checkpoint), strict=True))
    rows = zip(in_data.values(), classes.indices(in_data), strict=True)
    return {row: row_of[name] for name, row in rows if name in row_of}


def require_same_classes(content: Mapping[str, Any], in_data: Mapping[int, str], path: Path, way_out: str = "") -> None:
    """Refuse a checkpoint and data with different names of the same id; ids that only one of them has are no matter.

    Raises:
        CategoryError: with both lists.
    """
    renamed = [i for i, names in other_classes(content, in_data).items() if None not in names]
    if renamed:
        raise CategoryError(
            f"{path}: was trained on the categories {format_categories(content['category_names'])}; "
            f"the data has {format_categories(in_data)}: "
            f"{', '.join(map(str, renamed))} mean{'s' * (len(renamed) == 1)} another class. Use the data it was "
            f"trained on, correct the names in the annotation file{way_out}"
        )


def format_categories(names: Mapping[Any, str]) -> str:
    """Ids and names for a message."""
    return ", ".join(f"{category} {name!r}" for category, name in sorted(names.items(), key=lambda pair: int(pair[0])))
