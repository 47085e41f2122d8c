"""Errors for the person who can mend them."""


class UserError(ValueError):
    """Something the user can mend: the message names the file, what was expected, what came and what to do.

    main.py and the scripts print the message alone and exit with code 2; everything else is a defect and keeps its
    traceback.
    """


class ToldElsewhere(Exception):  # noqa: N818 it is no error of this rank
    """This rank stops because of an error that another rank tells.

    Args:
        code: exit code of the process.
    """

    def __init__(self, code: int = 2) -> None:
        super().__init__()
        self.code = code


class RunFailingError(RuntimeError):
    """Going on with this training is a waste of time; the log says why."""
