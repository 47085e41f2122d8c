"""The schema of all knobs, the rules between them, and how a config file is read. Needs no torch."""

from util.config.differences import Change, differences
from util.config.errors import ConfigError
from util.config.load import dump, flatten, load_config, load_run_config
from util.config.options import as_options
from util.config.schema import KNOBS, Config

__all__ = [
    "KNOBS",
    "Change",
    "Config",
    "ConfigError",
    "as_options",
    "differences",
    "dump",
    "flatten",
    "load_config",
    "load_run_config",
]
