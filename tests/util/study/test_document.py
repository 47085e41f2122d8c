"""Sections between markers: the rest of a document belongs to who wrote it."""

from pathlib import Path

import pytest

from util.base.errors import UserError
from util.study.document import Document

DOCUMENT = Document(Path("d.md"), "scripts/measure/study.py")
begin = DOCUMENT.begin
end = DOCUMENT.end

TEXT = f"# Title\n\nbefore\n\n{begin('a')}\nold\n{end('a')}\n\nbetween\n\n{begin('b')}\n{end('b')}\n\nafter\n"


def test_sections_are_replaced_and_the_text_around_them_stays():
    new = DOCUMENT.replace_sections(TEXT, {"a": "| 1 |", "b": "two\n"})
    assert new == (
        f"# Title\n\nbefore\n\n{begin('a')}\n\n| 1 |\n\n{end('a')}\n\nbetween\n\n"
        f"{begin('b')}\n\ntwo\n\n{end('b')}\n\nafter\n"
    )
    assert DOCUMENT.replace_sections(new, {"a": "| 1 |", "b": "two\n"}) == new


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (
            TEXT.replace(begin("a"), ""),
            "d.md: the marker '<!-- begin: a (written by scripts/measure/study.py) -->' is there 0",
        ),
        (TEXT.replace(end("a"), ""), "'<!-- end: a -->' is there 0 times"),
        (TEXT + begin("a"), "is there 2 times"),
        (f"{end('a')}\n{begin('a')}", "stands before"),
    ],
)
def test_a_marker_that_lacks_is_one_clear_error(text, phrase):
    with pytest.raises(UserError) as error:
        DOCUMENT.replace_sections(text, {"a": "x"})
    assert phrase in str(error.value)


def test_a_document_that_is_not_there_is_made_and_then_left_alone(tmp_path):
    path = tmp_path / "docs/new.md"
    document = Document(path, "a test")
    assert document.rewrite("A study", {"a": "one", "b": "two"})
    assert path.read_text().startswith("# A study\n\n<!-- begin: a")
    assert not document.rewrite("Another title", {"a": "one", "b": "two"})
    assert document.skeleton("T", {"a": ""}).count("\n") == 4
