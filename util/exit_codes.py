"""How a command ends: the exit code says what is to be done next."""

from collections.abc import Callable
from pathlib import Path

import torch

from util.distributed import exit_code_file
from util.errors import ToldElsewhere, UserError
from util.logger import complain
from util.preemption import Preempted

FINISHED = 0
FAILED = 1  # numbers that are not finite, a full GPU: the same command would fail again
MISTAKE = 2  # what the user can mend
REQUEUE = 75  # asked to stop, everything is saved: the same command goes on (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # Ctrl-C: the same command goes on from the last checkpoint


def run_to_exit_code(work: Callable[[], None]) -> int:
    """Do the work of a command; tell the user what went wrong, and return the exit code."""
    code = _run(work)
    path = exit_code_file()
    if path and code and not path.exists():  # the first rank that fails decides; it takes the others down with it
        _leave(code, path)
    return code


def _leave(code: int, path: Path) -> None:
    try:
        path.write_text(f"{code}\n", encoding="utf-8")
    except OSError as error:
        complain(f"{path}: cannot be written ({error.strerror}); it is where EXIT_CODE_FILE wants the exit code {code}")


def _run(work: Callable[[], None]) -> int:
    try:
        work()
    except Preempted:
        return REQUEUE
    except ToldElsewhere:
        return MISTAKE
    except UserError as error:
        complain(str(error))
        return MISTAKE
    except PermissionError as error:
        complain(f"{error.filename}: {error.strerror}; check the permissions of the file and of the folders above it")
        return MISTAKE
    except FloatingPointError as error:
        complain(str(error))
        return FAILED
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().split("\n", 1)[0]
        complain(f"{reason} Lower batch_size (and raise gradient_accumulation_steps) or use amp='bf16'")
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint")
        return INTERRUPTED
    return FINISHED
