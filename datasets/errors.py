"""The errors of this room."""

from util.errors import UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file, what is wrong with it, and the mend.

    A DataLoader re-raises the error of a worker as `type(error)(traceback of the worker)`. The traceback ends with
    the message, so cutting off what precedes it gives the user the same text with and without workers.
    """

    def __init__(self, message: str) -> None:
        marker = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.rpartition(marker)[2].strip())


class MissingPackage(DataError):  # noqa: N818 the package is what is to be told
    """A file that only an optional package can read; the message names the file, the package and how to get it."""
