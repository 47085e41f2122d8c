"""What the requirement files name, what is imported, and which text files may say where a machine keeps its files."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.helpers.source_tree import FILES, HIDDEN, ROOT, TOP, TREES, name, packages_imported

# package that only some files or devices need -> the file that imports it, itself imported where such are met
OPTIONAL = {
    "pydicom": "util/images/dicom.py",
    "onnxruntime": "models/export/onnx_detector.py",
    "triton": "models/ops/triton_kernels.py",
}
WITH_TORCH = {"triton"}  # comes with PyTorch, where there is one


def tracked_text():
    kinds = (".py", ".sh", ".sbatch", ".md", ".toml", ".txt", ".yml", ".yaml")
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        is_hidden = any(p.startswith(".") and p != ".ci" for p in parts) or HIDDEN & set(parts)
        if path.suffix in kinds and path.is_file() and not is_hidden and path.name != "site.sh":
            yield path


def test_no_path_of_one_machine():
    pattern = r"(?<![\w.$}/:-])/(?:home|root|work|tmp|mnt|data|users|scratch|opt|gpfs|lustre)/\S*"
    found = {name(p): re.findall(pattern, p.read_text(encoding="utf-8"), re.I) for p in tracked_text()}
    assert name(Path(__file__)) in found
    assert not {where: paths for where, paths in found.items() if paths}


def requirement_lines(file="requirements.txt"):
    return [x for x in (ROOT / file).read_text().splitlines() if x.strip() and not x.startswith("#")]


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-extra.txt"])
def test_requirements_are_lower_bounds_only(file):
    assert requirement_lines(file)
    for line in requirement_lines(file):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+>=[0-9.]+", line), line


def test_every_import_is_required():
    package = {"PIL": "pillow", "yaml": "pyyaml"}
    listed = {line.split(">=")[0].lower() for line in requirement_lines()}
    used = set().union(*(packages_imported(TREES[p]) for p in FILES)) - set(TOP) - set(sys.stdlib_module_names)
    used -= OPTIONAL.keys()
    missing = {package.get(u, u).lower() for u in used} - listed
    assert not missing, f"imported, but not in requirements.txt: {missing}"


def test_an_optional_package_is_imported_by_one_file_and_only_when_it_is_needed():
    extra = {line.split(">=")[0].lower() for line in requirement_lines("requirements-extra.txt")}
    for package, home in OPTIONAL.items():
        assert package in extra | WITH_TORCH
        assert {name(p) for p in FILES if package in packages_imported(TREES[p])} == {home}
        top = [n for n in TREES[ROOT / home].body if isinstance(n, ast.Import | ast.ImportFrom)]
        if package not in packages_imported(ast.Module(top, [])):  # but inside a function
            continue
        module = home.removesuffix(".py").replace("/", ".")
        at_once = [n for p in FILES for n in TREES[p].body if isinstance(n, ast.Import | ast.ImportFrom)]
        imported = {f"{n.module}.{a.name}" for n in at_once if isinstance(n, ast.ImportFrom) for a in n.names}
        imported |= {n.module for n in at_once if isinstance(n, ast.ImportFrom)}
        imported |= {a.name for n in at_once if isinstance(n, ast.Import) for a in n.names}
        assert module not in imported
