"""The classes of a network: those of a checkpoint, or "auto" by the categories of the training list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from util.config import Config, flatten
from util.config.load import resolve
from util.config.schema import Count
from util.detection.class_map import ClassMap

MAP_KEY = "class_ids"  # category ids of the classes 0, 1, ...; absent where the class index is the category id


def recorded_map(content: Mapping[str, Any]) -> ClassMap:
    """The class map of a checkpoint that was read."""
    return ClassMap(tuple(content.get(MAP_KEY) or ()))


def known_classes(config: Config, content: Mapping[str, Any]) -> tuple[Config, Count | ClassMap]:
    """What is known of the classes before the lists are read.

    Args:
        config: of the command.
        content: of the checkpoint that is resumed or evaluated; empty where there is none.

    Returns:
        the config with "auto" replaced by the checkpoint's numbers, and the checkpoint's class map or else the number.
    """
    recorded = content.get("config") or {}
    config = _without_auto(config, {k: recorded.get(k, "auto") for k in ("num_classes", "dn_labelbook_size")})
    classes = recorded_map(content)
    return config, classes if classes.ids else config.model.num_classes


def for_categories(config: Config, num_categories: int) -> Config:
    """Replace "auto" by the number of categories of the training list.

    Raises:
        ConfigError: another knob does not go with it.
    """
    given = config.model.num_classes
    num_classes = num_categories if given == "auto" else given
    return _without_auto(config, {"num_classes": num_classes, "dn_labelbook_size": num_classes})


def _without_auto(config: Config, numbers: Mapping[str, Any]) -> Config:
    values = flatten(config)
    replaced = {name: number for name, number in numbers.items() if values[name] == "auto" and number != "auto"}
    source = "the config, with " + ", ".join(f"{name}='auto' as {number}" for name, number in replaced.items())
    return resolve({**values, **replaced}, source=source) if replaced else config
