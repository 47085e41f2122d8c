"""Turn Python config files into one typed, frozen Config."""

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

from util.base.console import remark
from util.base.errors import UserError
from util.config.official_keys import OFFICIAL_KEYS_WITHOUT_MEANING
from util.config.rules import RULES
from util.config.schema import BEFORE, KNOBS, PATHS, REPLACED, SECTIONS, Config

BASE_KEY = "_base_"
RUN_TITLE = "The resolved config of a run"
LARGEST_LITERALS = 1 << 18  # bytes of a run's config.py: ten times what a run writes
LONGEST_SHOWN = 200  # characters of a value in a message
MOST_UNKNOWN = 30  # keys in a message: each is compared with all knobs


class ConfigError(UserError):
    """A config file or an override that the schema refuses."""


def load_config(path: str | Path, options: Iterable[str] | None = None) -> Config:
    """Read `path` with its `_base_` files, apply KEY=VALUE options, validate.

    A recipe is run as Python; what a run wrote down is read, not run.

    Raises:
        ConfigError: naming the file and every problem in it, each with a mend.
    """
    return resolve(read_values(Path(path)), options, source=str(path))


def load_run_config(folder: Path) -> Config:
    """The config of a run folder, which may be a stranger's: nothing in it is run, and it chooses no path.

    Raises:
        ConfigError: naming the file and every problem in it.
    """
    path = folder / "config.py"
    return resolve(without_paths(completed(_literals(path), path)), source=str(path))


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a checkpoint or a run folder with '' for its paths: it must not choose where a program writes."""
    return {key: "" if key in PATHS else value for key, value in values.items()}


def read_values(path: Path, below: tuple[Path, ...] = ()) -> Dict:
    """Merge a file over its bases. Two bases may not set the same key. What an older run wrote down is completed."""
    if path.resolve() in below:
        raise ConfigError(f"{path}: is its own {BASE_KEY}")
    own = completed(_literals(path), path) if _is_of_a_run(path) else _run(path)
    bases = own.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list | tuple) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{path}: {BASE_KEY} must be the name of a file or a list of names, got {bases!r}")
    merged = Dict()
    for base in bases:
        inherited = read_values(path.parent / base, (*below, path.resolve()))
        clash = sorted((merged.keys() & inherited.keys()) - own.keys())
        if clash:
            raise ConfigError(f"{path}: two bases set {', '.join(clash)}; say in this file which one is meant")
        merged.update(inherited)
    merged.update(own)
    return merged


def completed(values: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The config of a run, with the knobs that came later as what the run did without them; which ones is told.

    Values that no longer exist are replaced. A recipe is not completed: it says everything, or is refused.
    """
    lacking = {key: value for key, value in BEFORE.items() if key not in values}
    if lacking:
        pairs = ", ".join(as_options(lacking))
        remark(f"{source}: is of a version without some knobs; taken as what it did then: {pairs}")
    replaced = {
        key: choices[values[key]]
        for key, choices in REPLACED.items()
        if isinstance(values.get(key), str) and values[key] in choices
    }
    for key, value in replaced.items():
        remark(f"{source}: {key}={values[key]!r} no longer exists; taken as {value!r}")
    return {**lacking, **values, **replaced}


def resolve(values: Mapping[str, Any], options: Iterable[str] | None = None, *, source: str) -> Config:
    """Sort flat values into typed sections; refuse unknown, missing, ill-typed and contradicting keys, all at once."""
    values = {**values, **dict(map(parse_option, options or []))}
    unknown = [key for key in values if key not in KNOBS]
    problems = [_unknown(key) for key in unknown[:MOST_UNKNOWN]]
    problems += [f"{len(unknown) - MOST_UNKNOWN} more unknown keys"] if len(unknown) > MOST_UNKNOWN else []
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
    """The config as one flat dict of plain values, in the order of the schema."""
    return {key: value for section in asdict(config).values() for key, value in section.items()}


def dump(config: Config, docstring: str = "") -> str:
    """Write a config back as a flat Python file that load_config reads to the same Config."""
    text = docstring.replace("\\", r"\\").replace('"', r"\"")  # a command line may hold either
    lines = [f'"""{text}"""', ""] if docstring else []
    for section, values in asdict(config).items():
        lines += [f"# {section}", *(f"{key} = {value!r}" for key, value in values.items()), ""]
    return _wrapped("\n".join(lines))


def _wrapped(code: str) -> str:
    """Code with its long lines wrapped, which is for the eye alone.

    yapf keeps its grammar in a file of the user's, made at the first import, which a process that imports it at that
    moment reads half-written: ranks, or jobs that start together after an installation.
    """
    try:
        from yapf.yapflib.yapf_api import FormatCode
    except (EOFError, pickle.UnpicklingError):
        return code
    return FormatCode(code)[0]


def parse_option(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with VALUE a Python literal, or else a plain string."""
    key, sep, raw = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"option {text!r} is not KEY=VALUE")
    try:
        return key.strip(), ast.literal_eval(raw.strip())
    except (ValueError, SyntaxError, TypeError):  # TypeError: a literal that cannot be, such as {[1]: 2}
        return key.strip(), raw.strip()


def as_options(values: Mapping[str, Any]) -> list[str]:
    """The KEY=VALUE texts that `parse_option` reads back."""
    return [f"{key}={value!r}" for key, value in values.items()]


def _literals(path: Path) -> dict[str, Any]:
    """The values that the config.py of a run assigns, read and not run: the folder may be a stranger's.

    Raises:
        ConfigError: it has anything else than `KEY = literal`, or no text at all.
    """
    _require_file(path)
    with path.open("rb") as file:
        content = file.read(LARGEST_LITERALS + 1)
    if len(content) > LARGEST_LITERALS:
        raise ConfigError(f"{path}: is larger than {LARGEST_LITERALS} bytes, so it is no config that a run wrote")
    where = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings with an odd backslash, with the line it stands in
            statements = ast.parse(content.decode("utf-8-sig")).body
        values = {}
        for statement in statements:
            where = f", line {statement.lineno}"
            if isinstance(statement, ast.Assign) and all(isinstance(name, ast.Name) for name in statement.targets):
                values |= dict.fromkeys([name.id for name in statement.targets], ast.literal_eval(statement.value))
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                raise ValueError("a statement that is no KEY = value")
        if BASE_KEY in values:
            raise ValueError(f"{BASE_KEY} in a config that is resolved")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:  # of null bytes or deep nesting
        raise ConfigError(
            f"{path}{where}: the config of a run must hold KEY = value with plain values alone, since it is read and "
            "not run; for a recipe with code or bases copy it to config/, without its first lines in quotes"
        ) from error
    return values


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"config file not found: {path}; the recipes are in config/DINO/")


def _run(path: Path) -> dict[str, Any]:
    """The plain values a config file assigns. It is Python, so it may compute them."""
    _require_file(path)
    try:
        found = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{path}{where}: cannot be run as Python: {type(error).__name__}: {error}") from error
    return {k: v for k, v in found.items() if not (k.startswith("__") or isinstance(v, ModuleType) or callable(v))}


def _is_of_a_run(path: Path) -> bool:
    """Whether `util.training.run_folder` wrote the file."""
    if not path.is_file():  # whoever runs it tells
        return False
    head = f'"""{RUN_TITLE}'.encode()
    with path.open("rb") as file:
        return file.read(len(head) + 3).removeprefix(codecs.BOM_UTF8).startswith(head)


def _unknown(key: str) -> str:
    if key in OFFICIAL_KEYS_WITHOUT_MEANING:
        return f"unknown key {key!r}: it {OFFICIAL_KEYS_WITHOUT_MEANING[key]}"
    close = difflib.get_close_matches(str(key)[:LONGEST_SHOWN], KNOBS, n=1)
    advice = f"did you mean {close[0]!r}?" if close else "see util/config/schema.py for all knobs"
    return f"unknown key {_shown(key)}; {advice}"


def _contradictions(valid: dict[str, Any]) -> list[str]:
    found = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if names.keys() <= valid.keys():
            found.append(rule(**{name: valid[name] for name in names}))
    return [problem for problem in found if problem]


def _checked(spec: Field, value: Any) -> Any:
    wanted: Any = spec.type
    value = _coerced(value, wanted)
    if not _fits(value, wanted):
        raise ConfigError(f"{spec.name} must be {_say(wanted)}, got {_shown(value)}")
    low, high = spec.metadata["low"], spec.metadata["high"]
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, float) and not math.isfinite(part):
            raise ConfigError(f"{spec.name} must be finite, got {_shown(value)}")
        if part is not None and ((low is not None and part < low) or (high is not None and part > high)):
            raise ConfigError(f"{spec.name} must {_say_range(low, high)}, got {_shown(value)}")
    return value


def _coerced(value: Any, wanted: Any) -> Any:
    """What a person writes for a type: 1 for 1.0, a list for a tuple, 11 for (11,)."""
    options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if float in options and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if get_origin(wanted) is tuple:
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value


def _fits(value: Any, wanted: Any) -> bool:
    origin = get_origin(wanted)
    args = get_args(wanted)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (Union, UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    return type(value) is wanted


def _shown(value: Any) -> str:
    """A value for a message, which shall stay short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write out a number of thousands of digits
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _say(wanted: Any) -> str:
    origin = get_origin(wanted)
    args = get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (Union, UnionType):
        return " or ".join(map(_say, args))
    if origin is tuple:
        return f"a tuple of {args[0].__name__}"
    return "None" if wanted is type(None) else wanted.__name__


def _say_range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"lie in [{low:g}, {high:g}]"
    return f"be at least {low:g}" if low is not None else f"be at most {high:g}"
