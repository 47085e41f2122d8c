"""Tables inside a hand-written document: the text between two markers is replaced, the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from util.base.errors import UserError
from util.base.files import write_atomically


@dataclass(frozen=True)
class Document:
    """A document with generated sections."""

    path: Path
    writer: str  # the program that the markers name

    def begin(self, name: str) -> str:
        """The marker line before a section."""
        return f"<!-- begin: {name} (written by {self.writer}) -->"

    def end(self, name: str) -> str:
        """The marker line after a section."""
        return f"<!-- end: {name} -->"

    def replace_sections(self, text: str, sections: Mapping[str, str]) -> str:
        """The text with a new body between the markers of every section.

        Raises:
            UserError: a marker is missing or there twice, or the end comes before the beginning.
        """
        for name, body in sections.items():
            begin = self.begin(name)
            end = self.end(name)
            for marker in (begin, end):
                if text.count(marker) != 1:
                    fix = f"a section is the two lines '{begin}' and '{end}', once each, around the table"
                    raise UserError(f"{self.path}: the marker '{marker}' is there {text.count(marker)} times; {fix}")
            before, _, rest = text.partition(begin)
            _, marker, after = rest.partition(end)
            if not marker:
                raise UserError(f"{self.path}: '{end}' stands before '{begin}'; swap them")
            text = f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}"
        return text

    def skeleton(self, title: str, sections: Mapping[str, str]) -> str:
        """A new document with nothing but its sections, to write around."""
        return f"# {title}\n\n" + "\n".join(f"{self.begin(name)}\n{self.end(name)}\n" for name in sections)

    def rewrite(self, title: str, sections: Mapping[str, str]) -> bool:
        """Update the sections of the document, or create it; return whether anything changed."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else None
        new = self.replace_sections(self.skeleton(title, sections) if text is None else text, sections)
        if new != text:
            write_atomically(self.path, lambda file: file.write(new.encode()))
        return new != text
