"""Which class a category id means: compared by name wherever a checkpoint meets data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.base.errors import UserError

CLASS_TABLES = ("class_embed.", "label_enc.")  # tensors with a row per category id


class CategoryError(UserError):
    """The data calls other classes by the category ids of a checkpoint."""


def other_classes(content: Mapping[str, Any], ours: Mapping[int, str]) -> dict[int, tuple[str | None, str | None]]:
    """Ids that mean another class in a checkpoint than in the data, with both names; None where an id is not there.

    Official and older checkpoints have no names, which says nothing of their classes.
    """
    if not content.get("category_names"):
        return {}
    theirs = {int(category): name for category, name in content["category_names"].items()}
    pairs = {i: (theirs.get(i), ours.get(i)) for i in sorted({*theirs, *ours})}
    return {i: (a, b) for i, (a, b) in pairs.items() if a != b}


def require_same_classes(content: Mapping[str, Any], ours: Mapping[int, str], path: Path, way_out: str = "") -> None:
    """Refuse a checkpoint and data that call two classes by one id; ids that only one of them has are no matter here.

    Raises:
        CategoryError: with both lists.
    """
    renamed = [i for i, names in other_classes(content, ours).items() if None not in names]
    if renamed:
        raise CategoryError(
            f"{path}: was trained on the categories {listed(content['category_names'])}; the data has {listed(ours)}: "
            f"{', '.join(map(str, renamed))} mean{'s' * (len(renamed) == 1)} another class. Use the data it was "
            f"trained on, correct the names in the annotation file{way_out}"
        )


def listed(names: Mapping[Any, str]) -> str:
    """Ids and names in words."""
    return ", ".join(f"{category} {name!r}" for category, name in sorted(names.items(), key=lambda pair: int(pair[0])))
