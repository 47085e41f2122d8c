"""CONTRIBUTING.md stays short, and its links and diffs fit the code."""

import re

import pytest

from tests.architecture.test_vocabulary import BANNED
from tests.helpers.source_tree import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", TEXT)
PATHS = set(re.findall(r"`((?:tests|util|models|datasets|config|scripts|docs)/[\w./]*)`", TEXT))
HUNKS = [
    (part.split("\n", 1)[0], hunk)
    for block in re.findall(r"```diff\n(.*?)```", TEXT, re.DOTALL)
    for part in re.split(r"(?m)^--- a/", block)[1:]
    for hunk in re.split(r"(?m)^@@ .*\n", part)[1:]
]


def test_the_page_is_short_and_has_six_recipes():
    assert len(TEXT.splitlines()) < 260
    assert TEXT.count("```diff\n") == 6
    assert len(HUNKS) >= 12


@pytest.mark.parametrize("path", sorted({*LINKS, *PATHS}))
def test_what_the_page_names_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "hunk"), HUNKS)
def test_a_diff_still_applies(path, hunk):
    before = "".join(line[1:] + "\n" for line in hunk.splitlines() if not line.startswith("+"))
    assert (ROOT / path).read_text(encoding="utf-8").count(before) == 1


@pytest.mark.parametrize("word", BANNED)
def test_the_glossary_names_every_word_that_is_not_used(word):
    assert re.search(rf"^\|.*\b{word}\b", TEXT, re.MULTILINE)
