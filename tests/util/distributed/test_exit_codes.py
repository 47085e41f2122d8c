import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from util.base.errors import ReportedByOtherRank, UserError
from util.distributed.exit_codes import FAILED, FINISHED, INTERRUPTED, MISTAKE, REQUEUE, run_to_exit_code
from util.distributed.preemption import Preempted

ENDS = [
    (None, FINISHED, ""),
    (Preempted(), REQUEUE, ""),
    (ReportedByOtherRank(), MISTAKE, ""),
    (ReportedByOtherRank(FAILED), FAILED, ""),
    (UserError("fix it"), MISTAKE, "fix it"),
    (FloatingPointError("loss nan"), FAILED, "loss nan"),
    (torch.OutOfMemoryError("CUDA out of memory.\nmany lines"), FAILED, "CUDA out of memory. Lower batch_size"),
    (KeyboardInterrupt(), INTERRUPTED, "interrupted; the same command resumes from what was saved, if anything was"),
    (FileNotFoundError(2, "No such file or directory", "logs/x"), MISTAKE, "error: logs/x: No such file or directory"),
    (PermissionError(13, "Permission denied", "logs/x"), MISTAKE, "logs/x: Permission denied; check the permissions"),
]


@pytest.mark.parametrize(("error", "code", "said"), ENDS)
def test_every_outcome_has_its_exit_code_and_message(error, code, said, capsys, monkeypatch, tmp_path):
    def work():
        if error is not None:
            raise error

    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    assert run_to_exit_code(work) == code
    err = capsys.readouterr().err
    assert (said in err) if said else err == ""
    assert "many lines" not in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ([f"{code}\n"] if code else [])


def test_the_first_rank_that_fails_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    (tmp_path / "code").write_text("75\n")
    assert run_to_exit_code(lambda: (_ for _ in ()).throw(UserError("late"))) == MISTAKE
    assert (tmp_path / "code").read_text() == "75\n"


def test_an_exit_code_file_in_a_missing_folder_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "absent/code"))
    assert run_to_exit_code(lambda: (_ for _ in ()).throw(UserError("fix it"))) == MISTAKE
    assert "EXIT_CODE_FILE cannot be written (No such file or directory); the exit code is 2" in capsys.readouterr().err


HOSTILE = """
import atexit, multiprocessing, signal, sys, threading, time
from util.distributed.exit_codes import run_program, start_as_tool
from util.base.errors import UserError
from util.base.processes import die_with_parent

def stubborn():
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)

def work():
    WORK

def main():
    multiprocessing.Process(target=stubborn, daemon=True).start()
    threading.Thread(target=time.sleep, args=(600,)).start()
    atexit.register(time.sleep, 600)
    time.sleep(0.3)
    work()

START
assert "torch" not in sys.modules
run_program(main)
"""


def end_of_program(work, start="pass", stdout=subprocess.PIPE):
    """How a program ends with a child that ignores signals, a thread and an exit handler that take ten minutes."""
    text = HOSTILE.replace("WORK", work).replace("START", start)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "NO_COLOR": "1"},
    )
    err = process.communicate(timeout=20)[1]
    assert is_gone(process.pid)
    return process.returncode, err.rstrip().splitlines()[-1:]


def is_gone(group):
    """Whether nothing of a process group is left, a moment later."""
    for _ in range(750):  # who is init may take its time to collect the dead
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


LOCALES = {
    "of ascii streams": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_any_text_is_printed_in_any_locale_and_a_name_that_cannot_be_one_is_a_mistake(locale):
    work = r"echo('\u7ed3 \xe9 \udce9'); open('\u7ed3', 'rb')"
    imports = "from util.base.console import echo\nfrom util.distributed.exit_codes import run_program"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n\ndef work():\n    {work}\n\nrun_program(work)"],
        env={**os.environ, "NO_COLOR": "1", **LOCALES[locale]},
        capture_output=True,
        check=False,
    )
    assert done.returncode == MISTAKE
    assert done.stdout.decode("ascii") == "\\u7ed3 \\xe9 \\udce9\n"
    message = "is no file name where the encoding of names is ascii" if locale == "C" else "No such file or directory"
    assert done.stderr.decode("ascii").startswith(f"error: \\u7ed3: {message}")


@pytest.mark.parametrize(
    ("work", "code", "last"),
    [
        ("pass", FINISHED, []),
        ("raise UserError('fix it')", MISTAKE, ["error: fix it"]),
        ("raise RuntimeError('boom')", FAILED, ["RuntimeError: boom"]),
        ("raise MemoryError", FAILED, ["MemoryError"]),
        ("sys.exit(7)", 7, []),
        ("sys.exit('a word')", FAILED, ["error: a word"]),
        (
            "signal.raise_signal(signal.SIGINT)",
            INTERRUPTED,
            ["error: interrupted; the same command resumes from what was saved, if anything was"],
        ),
        ("raise BrokenPipeError('of a socket')", FAILED, ["BrokenPipeError: of a socket"]),
    ],
)
def test_a_program_ends_at_once_whatever_would_be_waited_for(work, code, last):
    assert end_of_program(work) == (code, last)


@pytest.mark.parametrize("start", ["pass", "start_as_tool()"])
@pytest.mark.parametrize("work", ["print('x', flush=True)", "print('x')"])
def test_a_program_whose_output_nobody_reads_ends_like_other_unix_tools(start, work):
    read, write = os.pipe()
    os.close(read)
    try:
        assert end_of_program(work, start, write) == (-signal.SIGPIPE, [])
    finally:
        os.close(write)


def test_ctrl_c_while_a_program_is_imported_ends_it_without_a_traceback():
    text = "import os; from util.distributed.exit_codes import start_as_tool as start; start(); os.kill(os.getpid(), 2)"
    handler = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, preexec_fn=handler, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_a_ctrl_c_that_the_shell_switched_off_stays_off():
    text = "import os; import util.distributed.exit_codes as e; e.start_as_tool(); os.kill(os.getpid(), 2); print('on')"
    handler = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, preexec_fn=handler, check=False)
    assert (done.returncode, done.stdout) == (0, b"on\n")
