"""Exit codes of the commands, and a run function that always ends the process.

Needs no torch, so a program can use it before the slow import.
"""

import codecs
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from util.base.console import flush_output, is_output_closed, prepare_output, print_error
from util.base.errors import ReportedByOtherRank, RunFailingError, UserError, WorkerDied
from util.base.files import DISK_FULL
from util.base.launcher import write_exit_code
from util.base.processes import kill_children
from util.distributed.preemption import SIGNALS, Preempted

FINISHED = 0
FAILED = 1  # non-finite loss, out of GPU memory, anything unexpected: the same command will likely fail again
MISTAKE = 2  # what the user can fix
INCOMPLETE = 3  # done except for unreadable inputs, which are listed
REQUEUE = 75  # stopped on request, everything is saved: the same command resumes (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # Ctrl-C: the same command resumes from the last checkpoint

# what a wrong path raises
FILE_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def start_as_tool() -> None:
    """Before slow imports: let a closed output pipe, as behind `| head`, and Ctrl-C end the program silently.

    Not for programs that talk to other processes: a broken connection would end them silently too.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    end_silently_on_ctrl_c()


def end_silently_on_ctrl_c() -> None:
    """Let Ctrl-C end the program without a traceback while it imports torch, which takes seconds.

    A SIGINT that the parent ignores, as shells do for background jobs, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_program(work: Callable[[], int | None]) -> NoReturn:
    """Run the work of a command and end this process with its exit code, whatever happens.

    Exit handlers of Python and its libraries are skipped: after an error, any of them may wait forever for a worker, a
    thread or another rank. Workers are killed; every writer closes its own files.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
        print_error(request.code)
        return FAILED
    return request.code or FINISHED


def _end(code: int, *, has_reader: bool) -> NoReturn:
    """End this process, by SIGPIPE like other Unix tools if nobody reads its output any more."""
    for number in (signal.SIGINT, *SIGNALS):  # a later signal must not change the exit code
        signal.signal(number, signal.SIG_IGN)
    kill_children()
    if not (flush_output() and has_reader):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    os._exit(code)


def run_to_exit_code(work: Callable[[], int | None]) -> int:
    """Run the work of a command, print its error if it fails, and return the exit code."""
    prepare_output()
    code = _run(work)
    try:
        write_exit_code(code)
    except OSError as error:
        print_error(f"{error.filename}: EXIT_CODE_FILE cannot be written ({error.strerror}); the exit code is {code}")
    return code


def _run(work: Callable[[], int | None]) -> int:
    try:
        return _work(work) or FINISHED
    except Preempted:
        return REQUEUE
    except ReportedByOtherRank as error:
        return error.code
    except UserError as error:
        print_error(str(error))
        return MISTAKE
    except OSError as error:
        is_of_a_file = isinstance(error, FILE_ERRORS) and error.filename is not None
        if not is_of_a_file and error.errno not in DISK_FULL:  # a defect, or a failing disk: the traceback helps
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        advice = "; check the permissions of the file and of the folders above it"
        print_error(f"{where}{error.strerror}{advice if isinstance(error, PermissionError) else ''}")
        return MISTAKE
    except (FloatingPointError, RunFailingError, WorkerDied) as error:
        print_error(str(error))
        return FAILED
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n", 1)[0]
        print_error(f"{reason} Lower batch_size (and raise gradient_accumulation_steps) or use amp='bf16'")
        return FAILED
    except KeyboardInterrupt:
        print_error("interrupted; the same command resumes from what was saved, if anything was")
        return INTERRUPTED


def _work(work: Callable[[], int | None]) -> int | None:
    """Run the work and kill its workers: a loader being deleted waits 5 seconds for each busy worker."""
    try:
        return work()
    except UnicodeEncodeError as error:
        if codecs.lookup(error.encoding) != codecs.lookup(sys.getfilesystemencoding()):  # not of a file name: a defect
            raise
        raise UserError(
            f"{error.object}: is no file name where the encoding of names is {error.encoding}; start with PYTHONUTF8=1 "
            "or LC_ALL=C.UTF-8, or rename the file"
        ) from error
    finally:
        kill_children()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether the GPU is out of memory, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
