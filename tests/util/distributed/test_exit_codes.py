import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from util.base.errors import ToldElsewhere, UserError
from util.distributed.exit_codes import FAILED, FINISHED, INTERRUPTED, MISTAKE, REQUEUE, run_to_exit_code
from util.distributed.preemption import Preempted

ENDS = [
    (None, FINISHED, ""),
    (Preempted(), REQUEUE, ""),
    (ToldElsewhere(MISTAKE), MISTAKE, ""),
    (ToldElsewhere(FAILED), FAILED, ""),
    (UserError("mend it"), MISTAKE, "mend it"),
    (FloatingPointError("loss nan"), FAILED, "loss nan"),
    (torch.OutOfMemoryError("CUDA out of memory.\nmany lines"), FAILED, "CUDA out of memory. Lower batch_size"),
    (KeyboardInterrupt(), INTERRUPTED, "interrupted; the same command goes on from what was saved, if anything was"),
    (FileNotFoundError(2, "No such file or directory", "logs/x"), MISTAKE, "error: logs/x: No such file or directory"),
    (PermissionError(13, "Permission denied", "logs/x"), MISTAKE, "logs/x: Permission denied; check the permissions"),
]


@pytest.mark.parametrize(("error", "code", "said"), ENDS)
def test_every_end_has_its_code_and_its_words(error, code, said, capsys, monkeypatch, tmp_path):
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


def test_a_place_for_the_code_that_does_not_exist_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "absent/code"))
    assert run_to_exit_code(lambda: (_ for _ in ()).throw(UserError("mend it"))) == MISTAKE
    assert "it is where EXIT_CODE_FILE wants the exit code 2" in capsys.readouterr().err


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
            ["error: interrupted; the same command goes on from what was saved, if anything was"],
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
