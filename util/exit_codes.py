"""How a command ends: the exit code says what is to be done next."""

from collections.abc import Callable

import torch

from util.errors import RunFailingError, ToldElsewhere, UserError
from util.launcher import leave_exit_code
from util.logger import complain
from util.preemption import Preempted

FINISHED = 0
FAILED = 1  # numbers that are not finite, a full GPU, anything unexpected: the same command may well fail again
MISTAKE = 2  # what the user can mend
INCOMPLETE = 3  # the rest is done; what could not be read is listed
REQUEUE = 75  # asked to stop, everything is saved: the same command goes on (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # Ctrl-C: the same command goes on from what was saved


def run_to_exit_code(work: Callable[[], None]) -> int:
    """Do the work of a command; tell the user what went wrong, and return the exit code."""
    code = _run(work)
    try:
        leave_exit_code(code)
    except OSError as error:
        wish = f"it is where EXIT_CODE_FILE wants the exit code {code}"
        complain(f"{error.filename}: cannot be written ({error.strerror}); {wish}")
    return code


def _run(work: Callable[[], None]) -> int:
    try:
        work()
    except Preempted:
        return REQUEUE
    except ToldElsewhere as error:
        return error.code
    except UserError as error:
        complain(str(error))
        return MISTAKE
    except PermissionError as error:
        complain(f"{error.filename}: {error.strerror}; check the permissions of the file and of the folders above it")
        return MISTAKE
    except (FloatingPointError, RunFailingError) as error:
        complain(str(error))
        return FAILED
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().split("\n", 1)[0]
        complain(f"{reason} Lower batch_size (and raise gradient_accumulation_steps) or use amp='bf16'")
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from what was saved")
        return INTERRUPTED
    return FINISHED
