"""Reading, validation and writing of config files: Python files become one typed, frozen Config."""

import ast
import codecs
import difflib
import inspect
import math
import pickle
import runpy
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from addict import Dict

from util.base.console import echo, print_note
from util.config.errors import ConfigError
from util.config.official import default_target, refuse_official, write_from_official
from util.config.official_keys import OFFICIAL_KEYS_WITHOUT_MEANING
from util.config.options import as_options, parse_options
from util.config.rules import RULES
from util.config.schema import BEFORE, KNOBS, PATHS, REPLACED, SECTIONS, Config

BASE_KEY = "_base_"
RUN_TITLE = "The resolved config of a run"
MAX_RUN_CONFIG_BYTES = 1 << 18  # ten times what a run writes
MAX_VALUE_LENGTH = 200  # characters of a value in a message
MAX_UNKNOWN_KEYS = 30  # in a message, as each is compared with all knobs


def load_config(path: str | Path, options: Iterable[str] | None = None) -> Config:
    """Read `path` with its `_base_` files, apply KEY=VALUE options and validate the result.

    A recipe is executed as Python; the config.py of a run is parsed and not executed.

    Raises:
        ConfigError: naming the file and every problem in it, each with a fix.
    """
    return resolve(read_values(Path(path)), options, source=str(path))


def convert_official(path: Path, target: Path | None) -> None:
    """Write a config with the changes of an official one, print what was done, and load it.

    Raises:
        ConfigError: the file is no official config, or an error in the new one, which is kept to be corrected.
    """
    target = target or default_target(path)
    echo(write_from_official(path, target))
    load_config(target)


def load_run_config(folder: Path) -> Config:
    """Read the config of an untrusted run folder: it is not executed, and its paths are ignored.

    Raises:
        ConfigError: naming the file and every problem in it.
    """
    path = folder / "config.py"
    return resolve(without_paths(add_later_knobs(_parse_literals(path), path)), source=str(path))


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the paths in values of a checkpoint or run folder by '': it must not choose where a program writes."""
    return {key: "" if key in PATHS else value for key, value in values.items()}


def read_values(path: Path, below: tuple[Path, ...] = ()) -> Dict:
    """Merge a file over its bases. Two bases may not set the same key. The config of an older run is completed."""
    if path.resolve() in below:
        raise ConfigError(f"{path}: is its own {BASE_KEY}")
    if _is_run_config(path):
        own = add_later_knobs(_parse_literals(path), path)
    else:
        refuse_official(path)
        own = _execute(path)
    bases = own.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list | tuple) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{path}: {BASE_KEY} must be the name of a file or a list of names, got {bases!r}")
    merged = Dict()
    for base in bases:
        inherited = read_values(path.parent / base, (*below, path.resolve()))
        clash = sorted((merged.keys() & inherited.keys()) - own.keys())
        if clash:
            raise ConfigError(f"{path}: two bases set {', '.join(clash)}; set it in this file")
        merged.update(inherited)
    merged.update(own)
    return merged


def add_later_knobs(values: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Add the knobs that an older run lacks, with the values that describe what it did, and print a note of them.

    Values that no longer exist are replaced. A recipe is not completed: one without a knob is refused.
    """
    missing = {key: value for key, value in BEFORE.items() if key not in values}
    if missing:
        pairs = ", ".join(as_options(missing))
        print_note(f"{source}: written by an older version; knobs added since get the values of its behaviour: {pairs}")
    replaced = {
        key: choices[values[key]]
        for key, choices in REPLACED.items()
        if isinstance(values.get(key), str) and values[key] in choices
    }
    for key, value in replaced.items():
        print_note(f"{source}: {key}={values[key]!r} no longer exists; replaced by {value!r}")
    return {**missing, **values, **replaced}


def resolve(values: Mapping[str, Any], options: Iterable[str] | None = None, *, source: str) -> Config:
    """Sort flat values into typed sections; report all unknown, missing, ill-typed and contradictory keys at once."""
    values = {**values, **parse_options(options or [])}
    unknown = [key for key in values if key not in KNOBS]
    problems = [_unknown_key(key) for key in unknown[:MAX_UNKNOWN_KEYS]]
    problems += [f"{len(unknown) - MAX_UNKNOWN_KEYS} more unknown keys"] if len(unknown) > MAX_UNKNOWN_KEYS else []
    problems += [f"missing key {k!r} ({f.metadata['doc']})" for k, (_, f) in KNOBS.items() if k not in values]
    valid: dict[str, Any] = {}
    for key in KNOBS.keys() & values.keys():
        try:
            valid[key] = _checked(KNOBS[key][1], values[key])
        except ConfigError as error:
            problems.append(str(error))
    problems += _contradictions(valid)
    if problems:
        raise ConfigError(f"{source}:\n  " + "\n  ".join(sorted(problems)))
    sections = {s: cls(**{k: v for k, v in valid.items() if KNOBS[k][0] == s}) for s, cls in SECTIONS.items()}
    return Config(**sections)


def flatten(config: Config) -> dict[str, Any]:
    """Return the config as one flat dict of plain values, in the order of the schema."""
    return {key: value for section in asdict(config).values() for key, value in section.items()}


def dump(config: Config, docstring: str = "") -> str:
    """Format a config as a flat Python file that load_config reads to the same Config."""
    text = docstring.replace("\\", r"\\").replace('"', r"\"")  # a command line may hold either
    lines = [f'"""{text}"""', ""] if docstring else []
    for section, values in asdict(config).items():
        lines += [f"# {section}", *(f"{key} = {value!r}" for key, value in values.items()), ""]
    return _wrap_lines("\n".join(lines))


def _wrap_lines(code: str) -> str:
    """Wrap the long lines of code, which only serves its readers.

    yapf caches its grammar in a file at its first import. Another rank or job that imports it at that moment reads the
    file half-written.
    """
    try:
        from yapf.yapflib.yapf_api import FormatCode
    except (EOFError, pickle.UnpicklingError):
        return code
    return FormatCode(code)[0]


def _parse_literals(path: Path) -> dict[str, Any]:
    """Parse the values that the config.py of a run assigns, without executing it, as the folder is untrusted.

    Raises:
        ConfigError: it holds anything but `KEY = literal`, or is not text.
    """
    _require_file(path)
    with path.open("rb") as file:
        content = file.read(MAX_RUN_CONFIG_BYTES + 1)
    if len(content) > MAX_RUN_CONFIG_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_RUN_CONFIG_BYTES} bytes, so no run wrote it")
    where = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in strings
            statements = ast.parse(content.decode("utf-8-sig")).body
        values: dict[str, Any] = {}
        for statement in statements:
            where = f", line {statement.lineno}"
            if isinstance(statement, ast.Assign):
                names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
                if len(names) < len(statement.targets):
                    raise ValueError("an assignment to something other than a name")
                values |= dict.fromkeys(names, ast.literal_eval(statement.value))
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                raise ValueError("a statement other than KEY = value")
        if BASE_KEY in values:
            raise ValueError(f"{BASE_KEY} in a resolved config")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:  # null bytes, deep nesting
        raise ConfigError(
            f"{path}{where}: the config of a run must hold nothing but KEY = value with plain values, as it is not "
            "executed; to turn it into a recipe with code or bases, copy it to config/ without its docstring"
        ) from error
    return values


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"config file not found: {path}; the recipes are in config/DINO/")


def _execute(path: Path) -> dict[str, Any]:
    """Execute a config file and return the plain values it assigns."""
    _require_file(path)
    try:
        assigned = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{path}{where}: cannot be executed as Python: {type(error).__name__}: {error}") from error
    return {k: v for k, v in assigned.items() if not (k.startswith("__") or isinstance(v, ModuleType) or callable(v))}


def _is_run_config(path: Path) -> bool:
    """Return whether `util.training.run_folder` wrote the file."""
    if not path.is_file():  # an error when it is executed
        return False
    head = f'"""{RUN_TITLE}'.encode()
    with path.open("rb") as file:
        return file.read(len(head) + 3).removeprefix(codecs.BOM_UTF8).startswith(head)


def _unknown_key(key: str) -> str:
    if key in OFFICIAL_KEYS_WITHOUT_MEANING:
        return f"unknown key {key!r}: it {OFFICIAL_KEYS_WITHOUT_MEANING[key]}"
    close = difflib.get_close_matches(str(key)[:MAX_VALUE_LENGTH], KNOBS, n=1)
    advice = f"did you mean {close[0]!r}?" if close else "see util/config/schema.py for all knobs"
    return f"unknown key {_shown(key)}; {advice}"


def _contradictions(valid: dict[str, Any]) -> list[str]:
    problems = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if names.keys() <= valid.keys():
            problems.append(rule(**{name: valid[name] for name in names}))
    return [problem for problem in problems if problem]


def _checked(spec: Field, value: Any) -> Any:
    value = _coerced(value, spec.type)
    if not _fits(value, spec.type):
        raise ConfigError(f"{spec.name} must be {_describe(spec.type)}, got {_shown(value)}")
    low, high = spec.metadata["low"], spec.metadata["high"]
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, str):
            continue
        if isinstance(part, float) and not math.isfinite(part):
            raise ConfigError(f"{spec.name} must be finite, got {_shown(value)}")
        is_number = part is not None and not isinstance(part, str)
        if is_number and ((low is not None and part < low) or (high is not None and part > high)):
            raise ConfigError(f"{spec.name} must {_describe_range(low, high)}, got {_shown(value)}")
    return value


def _coerced(value: Any, expected: Any) -> Any:
    """Convert values that are commonly written for a type: 1 for 1.0, a list for a tuple, 11 for (11,)."""
    options = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    if float in options and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if get_origin(expected) is tuple:
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value


def _fits(value: Any, expected: Any) -> bool:
    origin = get_origin(expected)
    args = get_args(expected)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (Union, UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    return type(value) is expected


def _shown(value: Any) -> str:
    """Format a value for a message, at limited length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to format a number of thousands of digits
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


def _describe(expected: Any) -> str:
    origin = get_origin(expected)
    args = get_args(expected)
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(map(repr, args))
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, args))
    if origin is tuple:
        return f"a tuple of {args[0].__name__}"
    return "None" if expected is type(None) else expected.__name__


def _describe_range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"lie in [{low:g}, {high:g}]"
    return f"be at least {low:g}" if low is not None else f"be at most {high:g}"
