"""Names and messages use the field's terms; what they replace is in CONTRIBUTING.md, section Words."""

import ast
import re

import pytest

from tests.helpers.source_tree import FILES, ROOT, TREES, name, nodes

BANNED = {
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "judge": "evaluate",
    "judges": "evaluates",
    "judged": "evaluated",
    "complain": "print an error",
    "remark": "note",
    "told": "logged, said in the message",
    "theirs": "other, checkpoint",
    "wanted": "expected, targets",
    "figures": "metrics, values; plots",
    "room": "package; space",
    "house": "package",
    "anew": "again",
}
PHRASES = {
    r"passed over": "skipped",
    r"false alarms?": "false positives",
    r"suppression of overlapping": "NMS",
    r"in turns": "alternately",
    r"classes as one": "class-agnostic",
    r"mean gap": "expected calibration error (ECE)",
    r"nothing to mend": "no action needed",
}
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


KEYS = {"judged"}  # of checkpoints, which do not change


def words(identifier):
    """The words of a name: of snake_case and of CamelCase."""
    return [w.lower() for part in identifier.split("_") for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)]


def names_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_words_of_names_are_told_apart():
    assert words("print_judgedImage_HTML") == ["print", "judged", "image", "html"]


def test_no_name_is_of_our_own_dialect():
    found = [
        f"{name(p)}:{line}: {identifier}: use {BANNED[word]}"
        for p in FILES
        for line, identifier in names_in(TREES[p])
        for word in words(identifier)
        if word in BANNED and identifier not in KEYS
    ]
    assert not found


def texts():
    """Messages, docstrings and documents, with the place of each."""
    for p, node in nodes(FILES, ast.Constant):
        if isinstance(node.value, str) and " " in node.value:  # keys and names of files are no text
            yield name(p), node.lineno, node.value
    for p in DOCUMENTS:
        for number, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1):
            yield name(p), number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)


@pytest.mark.parametrize("word", [*(rf"{w}" for w in BANNED), *PHRASES])
def test_no_text_is_of_our_own_dialect(word):
    pattern = re.compile(rf"(?<![\w-]){word}(?![\w-])", re.IGNORECASE)
    instead = BANNED.get(word) or PHRASES[word]
    glossary = "CONTRIBUTING.md"  # names the words that are not used
    found = [
        f"{place}:{line}: use {instead}" for place, line, text in texts() if pattern.search(text) and place != glossary
    ]
    assert not found
