"""Exceptions by who can fix the cause, and thus by the exit code of the program."""


class UserError(ValueError):
    """An error the user can fix: the message names the file, what was expected, what came and what to do.

    main.py and the scripts print the message alone and exit with code 2; any other exception is a defect and keeps its
    traceback.
    """


class DataError(UserError):
    """Unusable data; the message names the file, what is wrong with it, and the fix.

    A DataLoader re-raises the error of a worker as `type(error)(traceback of the worker)`. The traceback ends with
    the message; what precedes it is removed, so the user gets the same text with and without workers.
    """

    def __init__(self, message: str) -> None:
        marker = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.rpartition(marker)[2].strip())


class MissingPackage(DataError):  # noqa: N818 named after its cause
    """A file that needs an optional package; the message names the file, the package and how to install it."""


class ReportedByOtherRank(Exception):  # noqa: N818 not an error of this rank
    """This rank stops because of an error that another rank reports.

    Args:
        code: exit code of this process; 2, if the user can fix the error.
    """

    def __init__(self, code: int = 2) -> None:
        super().__init__()
        self.code = code


class RunFailingError(RuntimeError):
    """The doctor calls this run failing and the config says to stop; the log holds the diagnosis."""


class WorkerDied(RuntimeError):  # noqa: N818 named after its cause
    """A data loader worker was killed; the message names the likely cause."""
