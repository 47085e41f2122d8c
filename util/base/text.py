"""Words for messages; and names, which come with data, made harmless wherever people read them."""

import re
from collections.abc import Mapping, Sequence

LONGEST_NAME = 80  # characters


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


def short_names(names: Mapping[int, str]) -> dict[int, str]:
    """Category names that fit beside a box: the first word of a CamelCase name where that tells them apart."""
    whole = {k: label(name) for k, name in names.items()}
    first = {k: re.split(r"(?<=[a-z])(?=[A-Z])", name)[0] for k, name in whole.items()}
    return first if len(set(first.values())) == len(names) else whole


def label(name: object) -> str:
    """A name for a plot: on one line, not too long for it, and in a legend too, which leaves out what begins with _."""
    text = printable(str(name))
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 30]}...{text[-27:]}"
    return f" {text}" if text.startswith("_") else text
