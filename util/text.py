"""Words for messages."""

from collections.abc import Sequence


def first_few(items: Sequence[object], at_most: int = 3) -> str:
    """The first items, and dots where there are more: "a, b, c, ..."."""
    return ", ".join([*map(str, items[:at_most]), *(["..."] if len(items) > at_most else [])])
