"""Text for messages, Markdown and plots: names come from data, so control characters and markup are escaped."""

import re
from collections.abc import Mapping, Sequence

MAX_LABEL = 80  # characters
MAX_SHORT_NAME = 36  # of a category beside a box or in a legend


def first_few(items: Sequence[object], at_most: int = 3) -> str:
    """Join the first items, with dots if there are more: "a, b, c, ...". Each item is made printable."""
    return ", ".join([*(printable(str(item)) for item in items[:at_most]), *(["..."] if len(items) > at_most else [])])


def printable(text: str) -> str:
    """Escape every character that is not printable, such as line breaks and right-to-left marks."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """Escape every character that is not printable except newlines and tabs."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def markdown(text: object) -> str:
    """Escape a text for a line or table cell of Markdown, so that it is no markup, HTML, link or formula."""
    escaped = re.sub(r"[\\`*\[\]|#~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(str(text)))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)(?<=www)\.|:(?=//)", lambda match: f"&#{ord(match[0])};", escaped)  # no links


def short_names(names: Mapping[int, str]) -> dict[int, str]:
    """Shorten category names to fit beside a box: to the first word of a CamelCase name, if these are distinct."""
    cut = {k: label(name, MAX_SHORT_NAME) for k, name in names.items()}
    whole = cut if len(set(cut.values())) == len(names) else {k: label(name) for k, name in names.items()}
    first = {k: re.split(r"(?<=[a-z])(?=[A-Z])", name)[0] for k, name in whole.items()}
    return first if len(set(first.values())) == len(names) else whole


def label(name: object, longest: int = MAX_LABEL) -> str:
    """Make a plot label of a name: printable, of limited length, and not starting with _, which legends leave out."""
    text = printable(str(name))
    end = longest // 3
    text = text if len(text) <= longest else f"{text[: longest - end - 3]}...{text[-end:]}"
    return f" {text}" if text.startswith("_") else text
