"""How a command ends: always, and with an exit code that says what is to be done next.

Knows no torch, so that a program can use it before that is imported.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from util.base.console import complain, flush_output, is_output_closed, open_closed_output
from util.base.errors import RunFailingError, ToldElsewhere, UserError, WorkerDied
from util.base.launcher import leave_exit_code
from util.base.processes import kill_children
from util.distributed.preemption import SIGNALS, Preempted

FINISHED = 0
FAILED = 1  # numbers that are not finite, a full GPU, anything unexpected: the same command may well fail again
MISTAKE = 2  # what the user can fix
INCOMPLETE = 3  # the rest is done; what could not be read is listed
REQUEUE = 75  # asked to stop, everything is saved: the same command goes on (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # Ctrl-C: the same command goes on from what was saved


def start_as_tool() -> None:
    """Before slow imports: end like other Unix tools where nobody reads the output any more, as behind `| head`.

    Not for what talks to other processes, whose broken connections would end it as silently.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    end_silently_on_ctrl_c()


def end_silently_on_ctrl_c() -> None:
    """For the seconds in which a program imports torch: Ctrl-C ends it like other Unix tools, without a traceback.

    A Ctrl-C that the parent has switched off, as shells do for background jobs, stays off.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_program(work: Callable[[], int | None]) -> NoReturn:
    """Do the work of a command, and end this process with its exit code, whatever happens.

    The process is ended without the exit handlers of Python and its libraries: after an error, any of them may wait for
    ever for a worker, a thread or another rank. Workers are killed; files are closed by those who write them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    open_closed_output()
    code = FAILED
    try:
        code = run_to_exit_code(work)
    except SystemExit as request:  # of argparse, after --help
        code = _code_of(request)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        error = sys.exc_info()[1]
        has_reader = not (isinstance(error, BrokenPipeError) and is_output_closed())
        if error is not None and has_reader:
            sys.excepthook(type(error), error, error.__traceback__)
        _end(code, has_reader=has_reader)


def _code_of(request: SystemExit) -> int:
    if isinstance(request.code, str):
        complain(request.code)
        return FAILED
    return request.code or FINISHED


def _end(code: int, *, has_reader: bool) -> NoReturn:
    """End this process; where nobody reads its output any more, as other Unix tools end: by SIGPIPE."""
    for number in (signal.SIGINT, *SIGNALS):  # what comes now must not spoil the exit code
        signal.signal(number, signal.SIG_IGN)
    kill_children()
    if not (flush_output() and has_reader):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    os._exit(code)


def run_to_exit_code(work: Callable[[], int | None]) -> int:
    """Do the work of a command; print what went wrong, and return the exit code."""
    code = _run(work)
    try:
        leave_exit_code(code)
    except OSError as error:
        wish = f"it is where EXIT_CODE_FILE wants the exit code {code}"
        complain(f"{error.filename}: cannot be written ({error.strerror}); {wish}")
    return code


def _run(work: Callable[[], int | None]) -> int:
    try:
        return _work(work) or FINISHED
    except Preempted:
        return REQUEUE
    except ToldElsewhere as error:
        return error.code
    except UserError as error:
        complain(str(error))
        return MISTAKE
    except OSError as error:
        if error.filename is None:  # no file of the user's
            raise
        advice = "; check the permissions of the file and of the folders above it"
        complain(f"{error.filename}: {error.strerror}{advice if isinstance(error, PermissionError) else ''}")
        return MISTAKE
    except (FloatingPointError, RunFailingError, WorkerDied) as error:
        complain(str(error))
        return FAILED
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n", 1)[0]
        complain(f"{reason} Lower batch_size (and raise gradient_accumulation_steps) or use amp='bf16'")
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from what was saved, if anything was")
        return INTERRUPTED


def _work(work: Callable[[], int | None]) -> int | None:
    """Do the work, and kill its workers: a loader that is taken down waits 5 seconds for each one that is busy."""
    try:
        return work()
    finally:
        kill_children()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU is full. Where torch has not been imported, none of its errors can come."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
