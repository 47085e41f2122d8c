"""The house rules that a reader should be able to rely on without reading everything."""

import ast
import re
import sys
import warnings
from pathlib import Path

import pytest

from main import parse_arguments
from util.base.errors import UserError
from util.config.load import dump, flatten, load_config
from util.config.schema import KNOBS

ROOT = Path(__file__).parents[2]
ROOMS = {"util": 0, "datasets": 1, "models": 1, "engine": 1, "main": 2, "scripts": 3}
LONG_FILE, LONGEST_FUNCTION = 400, 60  # lines
HIDDEN = {"logs", ".venv", "venv", "data", ".git"}


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name(path):
    return path.relative_to(ROOT).as_posix()


PYTHON = sorted(p for p in ROOT.rglob("*.py") if not HIDDEN & set(p.relative_to(ROOT).parts))
FILES = [p for p in PYTHON if room(p) in ROOMS]
CONFIGS = sorted((ROOT / "config" / "DINO").glob("*.py"))
TREES = {p: ast.parse(p.read_text(encoding="utf-8")) for p in PYTHON}
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
# package that only some files or devices need -> the file that imports it, itself imported where such are met
OPTIONAL = {
    "pydicom": "util/images/dicom.py",
    "onnxruntime": "models/export/onnx_detector.py",
    "triton": "models/ops/triton_kernels.py",
}
WITH_TORCH = {"triton"}  # comes with PyTorch, where there is one
SILENT_EXCEPTS = {
    "util/runlog/rows.py": "a line of log.jsonl that a running job has not finished yet",
}
FLAGS = {
    "-h",
    "--help",
    "-c",
    "--config_file",
    "--options",
    "--data_path",
    "--output_dir",
    "--resume",
    "--pretrain_model_path",
    "--eval",
    "--device",
    "--verbose_losses",
}
RECIPE = {
    "num_classes": 4,
    "dn_labelbook_size": 4,
    "num_queries": 300,
    "focal_alpha": 0.75,
    "focal_gamma": 2.0,
    "cls_loss_coef": 1.0,
    "bbox_loss_coef": 5.0,
    "giou_loss_coef": 2.0,
    "epochs": 50,
    "lr": 1e-4,
    "lr_backbone": 1e-5,
    "lr_drop": (30, 40),
    "use_ema": True,
    "batch_size": 1,
}


def imports(tree):
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    return {imported.split(".")[0] for imported in names}


def nodes(paths, kind):
    return [(p, n) for p in paths for n in ast.walk(TREES[p]) if isinstance(n, kind)]


def test_the_search_finds_every_room():
    assert {room(p) for p in FILES} == ROOMS.keys()
    assert len(CONFIGS) >= 7


def test_imports_point_downwards():
    upward = [
        f"{name(path)} imports {there}: {room(path)} may not know it"
        for path in FILES
        for there in imports(TREES[path]) & ROOMS.keys() - {room(path)}
        if ROOMS[there] >= ROOMS[room(path)]
    ]
    assert not upward


def test_nothing_is_imported_relative_or_from_the_tests():
    assert not [p for p in FILES if "tests" in imports(TREES[p])]
    assert not [(name(p), n.lineno) for p, n in nodes(FILES, ast.ImportFrom) if n.level]


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


def test_only_the_logger_prints_so_that_no_name_steers_a_terminal():
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
    assert {name(p) for p in FILES if "csv" in imports(TREES[p])} == {"util/base/csv_text.py"}


def test_every_knob_is_read():
    read = {n.attr for p in FILES if p.name != "schema.py" for n in ast.walk(TREES[p]) if isinstance(n, ast.Attribute)}
    assert not KNOBS.keys() - read, f"knobs that nothing reads: {sorted(KNOBS.keys() - read)}"


def test_every_knob_has_a_meaning():
    assert all(len(spec.metadata["doc"]) > 5 for _, spec in KNOBS.values())


def test_flags_are_written_out():
    """Job scripts look for the full names."""
    with pytest.raises(UserError, match="--data_path"):
        parse_arguments(["--data", "x"])


def test_the_command_line_is_frozen(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    assert set(re.findall(r"(?<![\w-])--?[a-z]\w*", capsys.readouterr().out)) == FLAGS


def test_an_unknown_flag_is_refused():
    with pytest.raises(UserError, match="unrecognized arguments: --accum_steps 2"):
        parse_arguments(["--data_path", "x", "--accum_steps", "2"])


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
    used = set().union(*(imports(TREES[p]) for p in FILES)) - ROOMS.keys() - set(sys.stdlib_module_names)
    used -= OPTIONAL.keys()
    missing = {package.get(u, u).lower() for u in used} - listed
    assert not missing, f"imported, but not in requirements.txt: {missing}"


def test_an_optional_package_is_imported_by_one_file_that_nothing_imports_at_once():
    extra = {line.split(">=")[0].lower() for line in requirement_lines("requirements-extra.txt")}
    for package, home in OPTIONAL.items():
        assert package in extra | WITH_TORCH
        assert {name(p) for p in FILES if package in imports(TREES[p])} == {home}
        module = home.removesuffix(".py").replace("/", ".")
        at_once = [n for p in FILES for n in TREES[p].body if isinstance(n, ast.Import | ast.ImportFrom)]
        imported = {f"{n.module}.{a.name}" for n in at_once if isinstance(n, ast.ImportFrom) for a in n.names}
        imported |= {n.module for n in at_once if isinstance(n, ast.ImportFrom)}
        imported |= {a.name for n in at_once if isinstance(n, ast.Import) for a in n.names}
        assert module not in imported


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_file_loads_and_loads_again_from_its_own_dump(path, tmp_path):
    config = load_config(path)
    (tmp_path / "dumped.py").write_text(dump(config))
    assert load_config(tmp_path / "dumped.py") == config


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_file_says_how_to_run_it(path):
    assert f"--config_file {name(path)}" in ast.get_docstring(TREES[path])


@pytest.mark.parametrize("gpus", ["", "_1gpu"])
def test_the_tbx11k_recipes_hold_what_was_asked_for(gpus):
    values = flatten(load_config(ROOT / "config" / "DINO" / f"DINO_4scale_tbx11k{gpus}.py"))
    assert {key: values[key] for key in RECIPE} == RECIPE
    assert values["warmup_steps"] > 0
    assert values["dataset_file"] == "tbx11k"
    assert values["backbone"] == "resnet50"


def test_the_tbx11k_recipes_differ_in_the_cut_of_a_step_alone():
    two, one = (flatten(load_config(ROOT / f"config/DINO/DINO_4scale_tbx11k{x}.py")) for x in ("", "_1gpu"))
    assert {key: (two[key], one[key]) for key in two if two[key] != one[key]} == {"gradient_accumulation_steps": (1, 2)}
