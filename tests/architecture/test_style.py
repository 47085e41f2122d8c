"""Rules for the code that a reader should be able to rely on without reading everything."""

import ast
import re
import warnings
from collections import Counter

from tests.helpers.source_tree import FILES, PYTHON, TREES, name, nodes, packages_imported

LONG_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines
# file -> why it may catch everything
BROAD_EXCEPTS = {
    "util/config/load.py": "a config file is a program of the user's: whatever it raises is the user's error",
    "util/images/dicom.py": "in a damaged file pydicom stumbles over anything; its words may name a person",
}
# file -> why it may print by itself
RUNNING_LINES = {
    "scripts/lib/ranks.py": "it must speak where no package is installed; numbers and names of signals",
}
# file -> why it may ask for the environment
ENVIRONMENT = {
    "util/base/launcher.py": "torchrun announces ranks there",
    "models/ops/native_library.py": "users name their compiler and their cache folder there",
}
SILENT_EXCEPTS = {
    "util/runlog/rows.py": "a line of log.jsonl that a running job has not finished yet",
}


def test_functions_stay_short_and_long_files_are_named():
    """What counts in a file is one idea, not a number of lines."""
    lines = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in PYTHON}
    if long := {p: count for p, count in lines.items() if count > LONG_FILE}:
        warnings.warn(f"more than {LONG_FILE} lines, perhaps more than one idea: {long}", stacklevel=1)
    lengths = {
        f"{name(p)}:{n.name}": n.end_lineno - n.lineno + 1
        for p, n in nodes(PYTHON, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {where: length for where, length in lengths.items() if length > LONGEST_FUNCTION}


def test_only_the_console_prints_so_that_no_name_steers_a_terminal():
    printing = {name(p) for p, n in nodes(FILES, ast.Call) if getattr(n.func, "id", None) == "print"}
    assert printing == {"util/base/console.py"} | RUNNING_LINES.keys()
    # the training log asks whether there is a terminal
    streams = {name(p) for p, n in nodes(FILES, ast.Attribute) if n.attr in ("stdout", "stderr")}
    assert {p for p in streams if not p.startswith("scripts/")} <= {
        "util/base/console.py",
        "util/runlog/training_log.py",
    }


def test_no_error_is_caught_without_naming_it():
    broad = [
        (name(p), n)
        for p, n in nodes(FILES, ast.ExceptHandler)
        if not n.type or re.search(r"\b(Exception|BaseException)\b", ast.unparse(n.type))
    ]
    assert {where for where, _ in broad} == BROAD_EXCEPTS.keys()
    for where, handler in broad:  # what is caught goes on as another error
        assert any(isinstance(n, ast.Raise) and n.cause for n in ast.walk(handler)), where


def test_no_error_is_swallowed():
    silent = {
        name(p)
        for p, n in nodes(FILES, ast.ExceptHandler)
        if all(isinstance(s, ast.Pass | ast.Continue) for s in n.body)
    }
    assert silent == SILENT_EXCEPTS.keys()
    assert not [name(p) for p, n in nodes(FILES, ast.Name | ast.Attribute) if ast.unparse(n).endswith("suppress")]


def test_few_files_read_the_environment():
    assert {name(p) for p, n in nodes(FILES, ast.Attribute) if n.attr in ("environ", "getenv")} == ENVIRONMENT.keys()


def test_no_attribute_is_asked_for_with_a_default():
    hidden = [
        (name(p), n.lineno)
        for p, n in nodes(FILES, ast.Call)
        if getattr(n.func, "id", None) == "getattr" and len(n.args) > 2
    ]
    assert not hidden, "a default in code hides a knob"


def test_no_file_of_tensors_can_run_code():
    unsafe = [
        (name(p), n.lineno)
        for p, n in nodes(FILES, ast.Call)
        if ast.unparse(n.func) in ("torch.load", "pickle.load", "pickle.loads")
        and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in n.keywords)
    ]
    assert not unsafe


def test_one_file_opens_images_and_one_writes_csv():
    opening = [(name(p), n) for p, n in nodes(FILES, ast.Call) if ast.unparse(n.func) == "Image.open"]
    assert [(where, [k.arg for k in n.keywords]) for where, n in opening] == [("util/images/reader.py", ["formats"])]
    assert {name(p) for p in FILES if "csv" in packages_imported(TREES[p])} == {"util/base/csv_text.py"}


def is_text(call):
    """Whether a call opens, reads or writes a file as text, or runs a program whose output is text."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {k.arg: k.value for k in call.keywords}
    if called in ("read_text", "write_text"):
        return True
    if called == "open":
        modes = [*call.args[isinstance(call.func, ast.Name) :][:1], *(v for k, v in keywords.items() if k == "mode")]
        is_path = isinstance(call.func, ast.Name) or all(isinstance(m, ast.Constant) for m in modes)
        return is_path and "b" not in "".join(str(m.value) for m in modes if isinstance(m, ast.Constant))
    return called == "fdopen" or (ast.unparse(call.func).startswith("subprocess.") and "text" in keywords)


def test_the_search_finds_text_without_an_encoding():
    calls = {
        "path.read_text()": True,
        "path.open()": True,
        "path.open('a')": True,
        "open(path)": True,
        "open(path, 'w')": True,
        "open(path, 'rb')": False,
        "path.open('rb')": False,
        "Image.open(file, formats=())": False,
        "archive.open(info)": False,
        "os.open(path, flags)": False,
        "subprocess.run(words, text=True)": True,
    }
    assert {call: is_text(ast.parse(call).body[0].value) for call in calls} == calls


def test_text_has_an_encoding_whatever_the_locale():
    binary = {"util/base/files.py"}  # fdopen for bytes
    lacking = [
        f"{name(p)}:{n.lineno}"
        for p, n in nodes(FILES, ast.Call)
        if is_text(n) and not any(k.arg == "encoding" for k in n.keywords)
    ]
    assert {where.partition(":")[0] for where in lacking} <= binary, lacking


def packed(statement):
    """Whether `a, b = x, y` packs assignments that do not belong together.

    The parts of one thing do, as in `height, width = image.height, image.width`.
    """
    target = statement.targets[0]
    value = statement.value
    if not (isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)):
        return False
    if any(isinstance(part, ast.Starred) for part in (*target.elts, *value.elts)):
        return False
    wholes = {ast.unparse(p.value) for p in value.elts if isinstance(p, ast.Attribute | ast.Subscript)}
    is_of_one = len(wholes) == 1 and all(isinstance(p, ast.Attribute | ast.Subscript) for p in value.elts)
    is_swap = {ast.unparse(p) for p in target.elts} == {ast.unparse(p) for p in value.elts}
    return not is_of_one and not is_swap


def test_the_search_finds_packed_assignments():
    lines = {
        "a, b = 1, 2": True,
        "a, b = b, a": False,
        "h, w = x.h, x.w": False,
        "a, b = f()": False,
        "a, b = a + 1, 2": True,
    }
    assert {line: packed(ast.parse(line).body[0]) for line in lines} == lines


def test_a_class_has_a_name_of_its_own():
    places = Counter(n.name for p in FILES for n in TREES[p].body if isinstance(n, ast.ClassDef))
    assert not [name for name, count in places.items() if count > 1]


def test_every_assignment_has_a_line_of_its_own():
    assert not [f"{name(p)}:{n.lineno}" for p, n in nodes(FILES, ast.Assign) if packed(n)]
