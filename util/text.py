"""Words for messages; and names, which come with data, made harmless wherever people read them."""

import re
from collections.abc import Sequence


def first_few(items: Sequence[object], at_most: int = 3) -> str:
    """The first items, and dots where there are more: "a, b, c, ...". Names in it are on one line."""
    return ", ".join([*(printable(str(item)) for item in items[:at_most]), *(["..."] if len(items) > at_most else [])])


def printable(text: str) -> str:
    """A name on one line: what would move a cursor, turn letters round, or is no letter at all, is written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """The same for a message, which may have lines and tabs."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def markdown(text: object) -> str:
    """A name within a line or a table of a Markdown file: it is shown as it is, and neither HTML, link nor formula."""
    escaped = re.sub(r"[\\`*\[\]|#~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(str(text)))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)(?<=www)\.|:(?=//)", lambda found: f"&#{ord(found[0])};", escaped)  # addresses become links
