import unicodedata

import numpy as np
import pytest

from util.base.text import first_few, markdown, printable, printable_lines

HOSTILE = "\x1b[31mred\r\x00\x07\x9b\u202egnp\u2028\udcff\x85\x7f"


def test_a_few_items_are_listed_in_full_and_more_end_in_dots():
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c, ..."
    assert first_few(("a", "b"), at_most=1) == "a, ..."


def test_a_few_names_stand_on_one_line():
    assert first_few(["a\nerror: b", "\x1b[31m"]) == r"a\nerror: b, \x1b[31m"


def test_an_array_is_listed_as_numbers():
    assert first_few(np.array([7, 8, 9, 10])) == "7, 8, 9, ..."


@pytest.mark.parametrize("write", [printable, printable_lines, markdown])
def test_what_steers_a_terminal_or_turns_letters_round_is_written_out(write):
    text = write(HOSTILE)
    assert not any(unicodedata.category(letter)[0] in "CZ" for letter in text)
    assert all(part in text for part in ("x1b", "red", "u202e", "udcff"))
    text.encode("utf-8")


def test_names_of_other_alphabets_stay_as_they_are():
    name = "T\u00fcberculose \u7d50\u6838 \u0633\u0644 \U0001fac1"
    assert printable(name) == printable_lines(name) == markdown(name) == name


def test_a_message_keeps_its_lines_and_a_name_stands_on_one():
    assert printable_lines("a\n\tb") == "a\n\tb"
    assert printable("a\n\tb") == r"a\n\tb"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ActiveTuberculosis (1.5)", "ActiveTuberculosis (1.5)"),
        ("my_run_1", "my_run_1"),
        ("_x_", r"\_x\_"),
        ("a | b\n# c", r"a \| b\\n\# c"),
        ("<script>alert('&amp;')</script>", "&lt;script&gt;alert('&amp;amp;')&lt;/script&gt;"),
        ("![l](javascript:1)", r"!\[l\](javascript:1)"),
        ("`x` **y** ~~z~~", r"\`x\` \*\*y\*\* \~\~z\~\~"),
        (r"$\frac{", r"\$\\frac{"),
        ("https://a.b www.c.d", "https&#58;//a.b www&#46;c.d"),
        (5, "5"),
    ],
)
def test_in_markdown_a_name_is_neither_html_nor_link_nor_table_nor_formula(name, text):
    assert markdown(name) == text
