"""The product's files, their syntax trees, and which file imports which."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("main", "engine", "models", "datasets", "util", "scripts")
HIDDEN = {"logs", ".venv", "venv", "data", ".git"}
PYTHON = sorted(p for p in ROOT.rglob("*.py") if not HIDDEN & set(p.relative_to(ROOT).parts))
TREES = {p: ast.parse(p.read_text(encoding="utf-8")) for p in PYTHON}


def name(path):
    return path.relative_to(ROOT).as_posix()


def top_level(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [p for p in PYTHON if top_level(p) in TOP]


def module(path):
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(p): p for p in FILES}


def nodes(paths, kind):
    return [(p, n) for p in paths for n in ast.walk(TREES[p]) if isinstance(n, kind)]


def packages_imported(tree):
    """Top-level names of what a file imports, the standard library and others included."""
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    return {imported.split(".")[0] for imported in names}


@cache
def modules_imported(path):
    """Modules of the product that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return (found & MODULES.keys()) - {module(path)}
