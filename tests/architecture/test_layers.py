"""Who may import whom, how large a folder may be, and what needs no torch."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.helpers.source_tree import (
    FILES,
    MODULES,
    PYTHON,
    ROOT,
    TREES,
    module,
    modules_imported,
    name,
    nodes,
    packages_imported,
    top_level,
)

TOP_LEVEL = {"util": 0, "datasets": 1, "models": 1, "engine": 1, "main": 2, "scripts": 3}
UTIL = {
    "base": 0,
    **dict.fromkeys(("distributed", "detection", "config", "images", "metrics"), 1),
    **dict.fromkeys(("runlog", "predict"), 2),
    **dict.fromkeys(("training", "doctor", "plots"), 3),
    "study": 4,
}
MOST_ENTRIES = 14
INTERFACES = {
    "models",
    "models.inference",
    "models.export",
    "datasets.phantom",
    "util.images",
    "util.config",
    "util.doctor",
    "util.predict",
}
MOST_NAMES = 10
FOR_USERS = {"make_phantom", "PhantomError", "KNOBS", "ImageFacts", "read_facts"}  # in a program of their own
# package -> its modules that need torch all the same
WITHOUT_TORCH = {
    "util.base": {"seed"},
    "util.config": set(),
    "util.images": set(),
    "util.metrics": {"collect"},
    "util.doctor": {"checkup"},
    "util.plots": set(),
    "util.study": set(),
}
ALSO_WITHOUT_TORCH = ["util.runlog.rows", "util.runlog.history", "util.distributed.exit_codes"]


def util_package(dotted):
    return dotted.split(".")[1] if dotted.startswith("util.") else None


def test_the_search_finds_every_layer():
    assert {top_level(p) for p in FILES} == TOP_LEVEL.keys()
    assert {util_package(module(p)) for p in FILES} - {None} == UTIL.keys()


def test_imports_between_top_level_packages_point_downwards():
    upward = [
        f"{name(path)} imports {other}"
        for path in FILES
        for other in modules_imported(path)
        if (below := other.split(".")[0]) != top_level(path) and TOP_LEVEL[below] >= TOP_LEVEL[top_level(path)]
    ]
    assert not upward


def test_imports_between_packages_of_util_point_downwards():
    upward = [
        f"{dotted} imports {other}"
        for dotted, path in MODULES.items()
        for other in modules_imported(path)
        if (package := util_package(dotted)) and (below := util_package(other)) and below != package
        if UTIL[below] >= UTIL[package]
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    try:
        list(TopologicalSorter({d: modules_imported(p) for d, p in MODULES.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_nothing_is_imported_relative_or_from_the_tests():
    assert not [(name(p), n.lineno) for p, n in nodes(FILES, ast.ImportFrom) if n.level]
    assert not [name(p) for p in FILES if "tests" in packages_imported(TREES[p])]


def test_programs_in_strings_of_tests_import_what_there_is():
    """Neither mypy nor ruff looks into a program that a test hands to another process."""
    code = [n.value for _, n in nodes(PYTHON, ast.Constant) if isinstance(n.value, str)]
    lines = [
        m
        for text in code
        for m in re.findall(r"^\s*from ((?:util|models|datasets)[\w.]*) import ([\w, ]+)$", text, re.M)
    ]
    assert len(lines) > 10
    for source, names in lines:
        loaded = importlib.import_module(source)
        assert not [n for n in re.split(r",\s*", names.strip()) if not hasattr(loaded, n.split(" as ")[0])], source


@pytest.mark.parametrize("top", ["util", "datasets", "models"])
def test_no_folder_has_many_entries(top):
    folders = [ROOT / top, *(p for p in (ROOT / top).rglob("*") if p.is_dir() and p.name != "__pycache__")]
    entries = {name(folder): [p.name for p in folder.iterdir() if p.name != "__pycache__"] for folder in folders}
    assert not {folder: len(names) for folder, names in entries.items() if len(names) > MOST_ENTRIES}


def exported(path):
    """The names in `__all__`; None where there is no such list."""
    lists = [n.value for n in TREES[path].body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    return [element.value for element in lists[0].elts] if lists else None


@pytest.mark.parametrize("package", sorted(INTERFACES))
def test_a_public_interface_is_small_and_used(package):
    names = exported(MODULES[package])
    assert len(names) == len(set(names))  # ruff sorts them
    assert 1 <= len(names) <= MOST_NAMES
    past = [
        f"{name(path)}:{n.lineno} imports {a.name} from {n.module}"
        for path, n in nodes(FILES, ast.ImportFrom)
        for a in n.names
        if a.name in names and n.module.startswith(f"{package}.") and not module(path).startswith(package)
    ]
    assert not past, f"not from {package} itself"
    used = {a.name for _, n in nodes(FILES, ast.ImportFrom) if n.module == package for a in n.names}
    assert set(names) - used <= FOR_USERS, "nothing in the product uses these"


def test_other_packages_have_a_docstring_alone():
    inits = [p for p in FILES if p.name == "__init__.py" and module(p) not in INTERFACES]
    inits.remove(MODULES["util"])  # the version
    assert inits
    assert not [name(p) for p in inits if len(TREES[p].body) != 1 or ast.get_docstring(TREES[p]) is None]


def test_what_needs_no_torch_imports_none():
    modules = [
        dotted
        for dotted in MODULES
        for package, but in WITHOUT_TORCH.items()
        if (dotted + ".").startswith(f"{package}.")
        and dotted.split(".")[-1] not in but
        and dotted != "util.images.dicom"
    ]
    assert len(modules) > 40
    lines = [f"import {dotted}" for dotted in [*modules, *ALSO_WITHOUT_TORCH]]
    code = "import sys\n" + "".join(f"{line}\nassert 'torch' not in sys.modules, {line!r}\n" for line in lines)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
