"""Rows as CSV, one line per row whatever a name holds. All CSV files are written by this."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

# What a spreadsheet takes for a formula, in the wide letters of East Asian keyboards too.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 they are meant
# Categories of letters that are written out: control characters, ends of lines, halves of letters
WRITTEN_OUT = ("Cc", "Zl", "Zp", "Cs")


class Formatted(str):
    """A number that is written as it is, such as "-0.50"; every other text is a name."""

    __slots__ = ()


Cell = str | int | float


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """The lines of a CSV file, that with the names of the columns first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow([cell(value) if isinstance(value, str) else value for value in row])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def cell(text: str) -> str:
    """A name that stays on its line, and that no spreadsheet takes for a formula; `./x` is the file that `x` is."""
    if isinstance(text, Formatted):
        return text
    shown = "".join(ascii(c)[1:-1] if unicodedata.category(c) in WRITTEN_OUT else c for c in text)
    return f"./{shown}" if text.startswith(FORMULA) else shown
