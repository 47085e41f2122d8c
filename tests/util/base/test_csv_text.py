"""Names of strangers in CSV files."""

import csv

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from util.base.csv_text import FORMULA, Formatted, cell, csv_lines

NAMES = st.text(st.characters() | st.sampled_from("=+-@\t\r\n\0\",;'\\ \x85\u2028\ud800＝"), max_size=12)  # noqa: RUF001


def read_back(rows):
    content = "".join(csv_lines(("number", "name", "value"), rows)).encode("utf-8")
    return list(csv.reader(content.decode("utf-8").splitlines(keepends=True)))


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, NAMES), max_size=5))
@example([("a\r=cmd|x!A0.png", "")])
@example([("\n=1", "\x0b=1"), ('"', "\0")])
def test_any_name_is_one_record_whose_cells_are_no_formulas(pairs):
    rows = read_back((n, one, two) for n, (one, two) in enumerate(pairs))
    assert rows[0] == ["number", "name", "value"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(len(pairs))]
    for (_, *found), wanted in zip(rows[1:], pairs, strict=True):
        assert found == [cell(name) for name in wanted]
        assert not [text for text in found if text.startswith(FORMULA)]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12))
def test_a_name_that_is_none_of_that_stays_as_it_is(name):
    assert cell(f"a{name}") == f"a{name}"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "＝1"])  # noqa: RUF001
def test_a_name_is_no_formula(text):
    assert cell(text) == f"./{text}"
    assert cell(f"a{text}") == f"a{text}"


def test_control_characters_are_written_out():
    assert cell("a\r=cmd\x1b.png") == r"a\r=cmd\x1b.png"
    assert cell("\tx") == r"./\tx"


def test_numbers_are_no_names():
    assert read_back([(-1, Formatted("-0.50"), -0.25)])[1] == ["-1", "-0.50", "-0.25"]
