"""The page that shows a prediction: one HTML file that opens from the disk and asks no network for anything.

What comes from outside, names of files above all, is escaped. A policy in the page allows the page's own script and
style, by their hashes, and pictures beside it; nothing else, whatever a name may hold.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import IO
from urllib.parse import quote

from util.base.files import write_atomically
from util.predict.picture import NOTICE
from util.predict.rows import Row

PAGE = "summary.html"
THUMBNAIL_BYTES = 16_000_000  # of a page; images further down the list go without
MOST_TROUBLES = 1000  # named on the page


@dataclass(frozen=True)
class Story:
    """What the page says besides the images."""

    title: str
    facts: Mapping[str, str]  # what -> which
    troubles: Sequence[tuple[str, str]]  # (file, why it could not be read)


def write_page(path: Path, story: Story, rows: Iterator[Row], names: Mapping[int, str], threshold: float) -> None:
    """Write the page.

    Args:
        path: the file; pictures are linked to relative to its folder.
        story: what stands above the table.
        rows: the images, in the order of the table.
        names: of the categories, by id.
        threshold: the score from which on a box counts.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """

    def write(file: IO[bytes]) -> None:
        for part in _parts(story, rows, names, threshold):
            file.write(part.encode("utf-8", errors="backslashreplace"))

    write_atomically(path, write)


def _parts(story: Story, rows: Iterator[Row], names: Mapping[int, str], threshold: float) -> Iterator[str]:
    here = Path(__file__)
    style, script = (here.with_suffix(ending).read_text(encoding="utf-8") for ending in (".css", ".js"))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src data: file: 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    facts = "".join(f"<dt>{escape(what)}</dt><dd>{escape(which)}</dd>" for what, which in story.facts.items())
    frame = Template(here.with_suffix(".html").read_text(encoding="utf-8")).substitute(
        policy=policy,
        title=escape(story.title),
        style=style,
        notice=escape(NOTICE),
        facts=facts,
        troubles=_troubles(story.troubles),
        rows="\0",
        script=script,
    )
    before, _, after = frame.partition("\0")
    yield before
    room = THUMBNAIL_BYTES
    for row in rows:
        room -= len(row.thumbnail or "")
        yield _line(row, names, threshold, with_thumbnail=room >= 0) + "\n"
    yield after


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _troubles(troubles: Sequence[tuple[str, str]]) -> str:
    if not troubles:
        return ""
    items = "".join(f"<li>{escape(file)}: {escape(why)}</li>" for file, why in troubles[:MOST_TROUBLES])
    more = f"<li>and {len(troubles) - MOST_TROUBLES} more</li>" if len(troubles) > MOST_TROUBLES else ""
    headline = f"{len(troubles)} could not be read, and nothing was found out about them"
    return f'<details class="trouble" open><summary>{headline}</summary><ul>{items}{more}</ul></details>'


def _line(row: Row, names: Mapping[int, str], threshold: float, *, with_thumbnail: bool) -> str:
    """A row of the table."""
    counts: dict[str, int] = {}
    for label, score in zip(row.labels, row.scores, strict=True):
        if score >= threshold:
            counts[names.get(label, str(label))] = counts.get(names.get(label, str(label)), 0) + 1
    num = sum(counts.values())
    classes = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    name = escape(row.name)
    score = row.score
    image = ""
    if with_thumbnail and row.thumbnail:
        image = f'<img alt="small picture of {name}" loading="lazy" src="data:image/jpeg;base64,{row.thumbnail}">'
    if row.picture:
        link = quote(os.fsencode(row.picture))
        image = f'<a href="{link}" title="enlarge {name}">{image or "picture"}</a>'
    kind = "positive" if num else "negative"
    number = -1 if score is None else score
    shown = escape(classes)
    told = "none" if score is None else f"{score:.3f}"
    return (
        f'<tr class="{kind}" data-name="{name}" data-score="{number}" data-boxes="{num}" data-classes="{shown}">'
        f"<td>{image}</td><td>{name}</td><td>{told}</td><td>{num}</td><td>{shown}</td></tr>"
    )
