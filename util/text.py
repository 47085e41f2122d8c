"""Words for messages."""

from collections.abc import Sequence


def first_few(items: Sequence[object], at_most: int = 3) -> str:
    """The first items, and dots where there are more: "a, b, c, ..."."""
    return ", ".join([*map(str, items[:at_most]), *(["..."] if len(items) > at_most else [])])


def printable(text: str) -> str:
    """A name of a file for a terminal: what would move its cursor, or is no letter in any encoding, is written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
