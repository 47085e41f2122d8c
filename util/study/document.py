"""Tables inside a document that people write: what stands between two markers is replaced, the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from util.base.errors import UserError
from util.base.files import write_atomically

BY = "written by scripts/measure/study.py"


def begin(name: str) -> str:
    """The line before a section."""
    return f"<!-- begin: {name} ({BY}) -->"


def end(name: str) -> str:
    """The line after it."""
    return f"<!-- end: {name} -->"


def replace_sections(text: str, sections: Mapping[str, str], where: str) -> str:
    """The text with a new body between the markers of every section.

    Raises:
        UserError: a marker is missing or there twice, or the end comes before the beginning.
    """
    for name, body in sections.items():
        for marker in (begin(name), end(name)):
            if text.count(marker) != 1:
                mend = f"a section is the two lines '{begin(name)}' and '{end(name)}', once each, around the table"
                raise UserError(f"{where}: the marker '{marker}' is there {text.count(marker)} times; {mend}")
        before, _, rest = text.partition(begin(name))
        _, found, after = rest.partition(end(name))
        if not found:
            raise UserError(f"{where}: '{end(name)}' stands before '{begin(name)}'; swap them")
        text = f"{before}{begin(name)}\n\n{body.strip()}\n\n{end(name)}{after}"
    return text


def skeleton(title: str, sections: Mapping[str, str]) -> str:
    """A document with nothing but its sections, to write around."""
    return f"# {title}\n\n" + "\n".join(f"{begin(name)}\n{end(name)}\n" for name in sections)


def rewrite(path: Path, title: str, sections: Mapping[str, str]) -> bool:
    """Bring the sections of a document up to date; it is made where there is none. Whether anything changed."""
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    new = replace_sections(skeleton(title, sections) if text is None else text, sections, str(path))
    if new != text:
        write_atomically(path, lambda file: file.write(new.encode()))
    return new != text
