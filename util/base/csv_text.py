"""CSV text with one line per row and safe cells. Every CSV file of the repository is written with it."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

# First characters of a spreadsheet formula, including the full-width forms of East Asian keyboards
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 full-width on purpose
# Unicode categories that are escaped: control characters, line and paragraph separators, surrogates
ESCAPED_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")


class Formatted(str):
    """A formatted number such as "-0.50", which is written unchanged; any other text is escaped as a name."""

    __slots__ = ()


Cell = str | int | float


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Yield the lines of a CSV file, the header line first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow([cell(value) if isinstance(value, str) else value for value in row])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def cell(text: str) -> str:
    """Escape a name: no line breaks, and a "./" before what a spreadsheet would run as a formula."""
    if isinstance(text, Formatted):
        return text
    shown = "".join(ascii(c)[1:-1] if unicodedata.category(c) in ESCAPED_CATEGORIES else c for c in text)
    return f"./{shown}" if text.startswith(FORMULA) else shown


def read_csv(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The rows of CSV text that are not blank, each with the number of its last line.

    Raises:
        ValueError: a quote is not closed, or a cell is too long.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = ((reader.line_num, [value.strip() for value in row]) for row in reader)
        return [(number, row) for number, row in rows if any(row)]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
