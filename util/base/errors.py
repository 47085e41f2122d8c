"""Errors for the person who can mend them."""


class UserError(ValueError):
    """Something the user can mend: the message names the file, what was expected, what came and what to do.

    main.py and the scripts print the message alone and exit with code 2; everything else is a defect and keeps its
    traceback.
    """


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


class ToldElsewhere(Exception):  # noqa: N818 it is no error of this rank
    """This rank stops because of an error that another rank tells.

    Args:
        code: exit code of the process.
    """

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class RunFailingError(RuntimeError):
    """Going on with this training is a waste of time; the log says why."""


class WorkerDied(RuntimeError):  # noqa: N818 it did not raise anything, it was killed
    """A loader process is gone, by no fault of this program; the message says what may have killed it."""
