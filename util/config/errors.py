"""The error of configs and options."""

from util.base.errors import UserError


class ConfigError(UserError):
    """A config file or an override that the schema refuses."""
