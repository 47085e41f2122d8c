"""KEY=VALUE options: read as people write them, and written as they are read."""

import ast
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from util.config.errors import ConfigError
from util.config.schema import KNOBS

WORDS: dict[type, dict[str, Any]] = {
    bool: {"true": True, "false": False},
    NoneType: {"none": None, "null": None},
}  # in any case


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Parse KEY=VALUE texts. A list that a shell has cut at its blanks, as in `lr_drop=[1, 2]`, is put together again.

    Raises:
        ConfigError: a text is not KEY=VALUE; with the quoted form of what it probably belongs to.
    """
    whole: list[str] = []
    for text in options:
        if "=" in text or not whole:
            whole.append(text)
        elif _is_list(whole[-1].partition("=")[0].strip()):
            whole[-1] += f" {text}"
        else:
            raise ConfigError(f'option {text!r} is not KEY=VALUE; a value with blanks is quoted: "{whole[-1]} {text}"')
    return dict(_of_knob(*parse_option(text)) for text in whole)


def parse_option(text: str) -> tuple[str, Any]:
    """Parse `KEY=VALUE`, where VALUE is a Python literal or else a plain string."""
    key, sep, raw = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"option {text!r} is not KEY=VALUE")
    try:
        return key.strip(), ast.literal_eval(raw.strip())
    except (ValueError, SyntaxError, TypeError):  # TypeError: an impossible literal such as {[1]: 2}
        return key.strip(), raw.strip()


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Format values as KEY=VALUE texts that `parse_option` reads back."""
    return [f"{key}={value!r}" for key, value in values.items()]


def _of_knob(key: str, value: Any) -> tuple[str, Any]:
    """Read a plain string as the type of its knob: true, none, `480 512`; what cannot be read stays a string."""
    if not isinstance(value, str) or key not in KNOBS:
        return key, value
    if _is_list(key):
        numbers = value.strip("[]()").replace(",", " ").split()
        return key, [parse_option(f"{key}={number}")[1] for number in numbers] if numbers else value
    expected = KNOBS[key][1].type
    for kind in (expected, *get_args(expected)):
        if value.lower() in WORDS.get(kind, {}):
            return key, WORDS[kind][value.lower()]
    return key, value


def _is_list(key: str) -> bool:
    return key in KNOBS and get_origin(KNOBS[key][1].type) is tuple
