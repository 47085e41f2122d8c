"""The page of a prediction: one HTML file that opens from the disk without a network.

Names of files and all else from outside are escaped. The content security policy of the page allows its own script and
style, by their hashes, and images beside it; nothing else, whatever a name may hold.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import IO
from urllib.parse import quote

from util.base.files import write_atomically
from util.predict.outputs import PAGE_FILE, OutputSettings
from util.predict.picture import NOTICE
from util.predict.results import ImageResult

THUMBNAIL_BYTES = 16_000_000  # of a page; images further down the list go without
MOST_UNREADABLE = 1000  # named on the page


@dataclass(frozen=True)
class PageHeader:
    """What stands above the table of images."""

    title: str
    facts: Mapping[str, str]  # what -> which
    unreadable: Sequence[tuple[str, str]]  # (file, why it cannot be read)
    excluded: Sequence[tuple[str, str]] = ()  # (file, why it is not predicted)


def write_page(output: OutputSettings, header: PageHeader, results: Iterator[ImageResult]) -> None:
    """Write the page, with the images in the order of the results.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """

    def write(file: IO[bytes]) -> None:
        for part in _parts(output, header, results):
            file.write(part.encode("utf-8", errors="backslashreplace"))

    write_atomically(output.folder / PAGE_FILE, write)


def _parts(output: OutputSettings, header: PageHeader, results: Iterator[ImageResult]) -> Iterator[str]:
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
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
    facts = "".join(f"<dt>{escape(what)}</dt><dd>{escape(which)}</dd>" for what, which in header.facts.items())
    frame = Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        policy=policy,
        title=escape(header.title),
        style=style,
        notice=escape(NOTICE),
        facts=facts,
        troubles=_files_without_result(header.unreadable, "could not be read and have no result")
        + _files_without_result(header.excluded, "are no frontal chest radiographs by their header: not predicted"),
        score=escape(output.score_label),
        rows="\0",
        script=script,
    )
    before, _, after = frame.partition("\0")
    yield before
    bytes_left = THUMBNAIL_BYTES
    for result in results:
        bytes_left -= len(result.thumbnail or "")
        yield _line(result, output, with_thumbnail=bytes_left >= 0) + "\n"
    yield after


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _files_without_result(files: Sequence[tuple[str, str]], what: str) -> str:
    if not files:
        return ""
    items = "".join(f"<li>{escape(file)}: {escape(why)}</li>" for file, why in files[:MOST_UNREADABLE])
    more = f"<li>and {len(files) - MOST_UNREADABLE} more</li>" if len(files) > MOST_UNREADABLE else ""
    headline = f"{len(files)} {what}"
    return f'<details class="trouble" open><summary>{headline}</summary><ul>{items}{more}</ul></details>'


def _line(result: ImageResult, output: OutputSettings, *, with_thumbnail: bool) -> str:
    """A line of the table."""
    pairs = zip(result.labels, result.scores, strict=True)
    counts = Counter(output.name_of(label) for label, score in pairs if score >= output.threshold)
    num = counts.total()
    classes = escape(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    name = escape(result.name)
    image = ""
    if with_thumbnail and result.thumbnail:
        image = f'<img alt="small picture of {name}" loading="lazy" src="data:image/jpeg;base64,{result.thumbnail}">'
    if result.picture:
        link = quote(os.fsencode(result.picture))
        image = f'<a href="{link}" title="enlarge {name}">{image or "picture"}</a>'
    kind = "positive" if num else "negative"
    score, shown_score = (-1.0, "none") if result.score is None else (result.score, f"{result.score:.3f}")
    return (
        f'<tr class="{kind}" data-name="{name}" data-score="{score}" data-boxes="{num}" data-classes="{classes}">'
        f"<td>{image}</td><td>{name}</td><td>{shown_score}</td><td>{num}</td><td>{classes}</td></tr>"
    )
