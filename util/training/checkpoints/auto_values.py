"""Knobs with the value "auto": what a checkpoint recorded, or what the data say. The class map of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from util.config import Config, flatten
from util.config.load import resolve
from util.config.schema import BEFORE, Count
from util.detection.class_map import ClassMap

MAP_KEY = "class_ids"  # category ids of the classes 0, 1, ...; absent where the class index is the category id
AUTO = "auto"
AUTO_KNOBS = ("num_classes", "dn_labelbook_size", "image_depth")


def recorded_map(content: Mapping[str, Any]) -> ClassMap:
    """The class map of a checkpoint that was read."""
    return ClassMap(tuple(content.get(MAP_KEY) or ()))


def recorded_depth(content: Mapping[str, Any]) -> int | None:
    """Bits of the 16-bit images that the network of a checkpoint was trained on; None where there were none."""
    depth = (content.get("config") or {}).get("image_depth")
    return depth if type(depth) is int else None


def fill_from_checkpoint(config: Config, content: Mapping[str, Any]) -> tuple[Config, Count | ClassMap]:
    """Replace "auto" by what a checkpoint recorded, before the lists are read.

    Args:
        config: of the command.
        content: of the checkpoint that is resumed or evaluated; empty where there is none.

    Returns:
        the config, and the checkpoint's class map or else the number of classes.
    """
    recorded = {**BEFORE, **content["config"]} if content.get("config") else {}
    config = _without_auto(config, {knob: recorded.get(knob, AUTO) for knob in AUTO_KNOBS})
    classes = recorded_map(content)
    return config, classes if classes.ids else config.model.num_classes


def fill_from_data(config: Config, num_categories: int, image_depth: int | None) -> Config:
    """Replace "auto" by what the data say.

    Args:
        config: of the command.
        num_categories: of the training list.
        image_depth: bits of the samples of its 16-bit images; None: it has no such images.

    Raises:
        ConfigError: another knob does not go with it.
    """
    given = config.model.num_classes
    num_classes = num_categories if given == AUTO else given
    values = {"num_classes": num_classes, "dn_labelbook_size": num_classes, "image_depth": image_depth or AUTO}
    return _without_auto(config, values)


def _without_auto(config: Config, numbers: Mapping[str, Any]) -> Config:
    values = flatten(config)
    replaced = {name: number for name, number in numbers.items() if values[name] == AUTO and number != AUTO}
    source = "the config, with " + ", ".join(f"{name}='auto' as {number}" for name, number in replaced.items())
    return resolve({**values, **replaced}, source=source) if replaced else config
