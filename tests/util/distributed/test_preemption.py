import os
import signal
import subprocess
import sys

import pytest

from util.distributed.preemption import SIGNALS, StopRequest, leave_signals_to_parent


@pytest.fixture
def handlers():
    """The handlers of this process, put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number):
    request = StopRequest()
    request.listen()
    assert not request.is_made
    os.kill(os.getpid(), number)
    assert request.is_made
    assert request.signal == number


def end_of(*signals, **env):
    """How a process ends that gets these signals, and the exit code it leaves in a file if it is asked to."""
    text = f"""
import os, signal, sys
from util.distributed.preemption import StopRequest
assert "torch" not in sys.modules
request = StopRequest()
request.listen()
for number in {[int(number) for number in signals]}:
    os.kill(os.getpid(), number)
sys.exit(3)
"""
    environment = {**os.environ, **{key: str(value) for key, value in env.items()}}
    return subprocess.run([sys.executable, "-c", text], check=False, timeout=30, env=environment).returncode


def test_a_second_signal_ends_the_process_at_once():
    assert end_of(signal.SIGUSR1) == 3
    assert end_of(signal.SIGUSR1, signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert end_of(signal.SIGUSR1, signal.SIGTERM) == 128 + signal.SIGTERM
    assert end_of(signal.SIGTERM, signal.SIGUSR1) == 128 + signal.SIGUSR1


def test_under_torchrun_a_second_sigterm_is_the_one_that_torchrun_passes_on():
    assert end_of(signal.SIGTERM, signal.SIGTERM) == 128 + signal.SIGTERM
    assert end_of(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, TORCHELASTIC_RUN_ID="x") == 3
    assert end_of(signal.SIGUSR1, signal.SIGUSR1, TORCHELASTIC_RUN_ID="x") == 128 + signal.SIGUSR1


def test_the_exit_code_of_a_second_signal_reaches_the_launcher(tmp_path):
    end_of(signal.SIGUSR1, signal.SIGUSR1, EXIT_CODE_FILE=tmp_path / "code")
    assert (tmp_path / "code").read_text() == f"{128 + signal.SIGUSR1}\n"
    assert end_of(signal.SIGUSR1, signal.SIGUSR1, EXIT_CODE_FILE=tmp_path / "absent/code") == 128 + signal.SIGUSR1


@pytest.mark.usefixtures("handlers")
def test_what_is_settled_is_not_disturbed():
    request = StopRequest()
    request.listen()
    request.settle()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not request.is_made


@pytest.mark.usefixtures("handlers")
def test_who_did_not_listen_has_nothing_to_settle():
    before = [signal.getsignal(number) for number in SIGNALS]
    StopRequest().settle()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.usefixtures("handlers")
def test_loader_processes_leave_signals_to_their_parent(monkeypatch):
    monkeypatch.setattr("util.distributed.preemption.die_with_parent", lambda: None)  # this process is none
    leave_signals_to_parent(0)
    assert {signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)} == {signal.SIG_IGN}


def test_items_end_with_the_request():
    request = StopRequest()
    seen = []
    for item in request.until_made(range(5)):
        seen.append(item)
        if item == 2:
            request.signal = signal.SIGUSR1
    assert seen == [0, 1, 2]


@pytest.mark.usefixtures("handlers")
def test_a_file_is_a_request_looked_for_once_a_second(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.distributed.preemption.time.monotonic", lambda: now[0])
    request = StopRequest()
    request.watch(tmp_path / "stop")
    assert not request.is_made
    (tmp_path / "stop").touch()
    assert not request.is_made
    now[0] = 1.0
    assert request.is_made
    assert request.maker == str(tmp_path / "stop")
    request.settle()
    assert not (tmp_path / "stop").exists()
    assert request.is_made, "what was asked stays asked"


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_folder_of_that_name_is_a_request_too(tmp_path, is_empty, capsys):
    request = StopRequest()
    request.watch(tmp_path / "stop")
    (tmp_path / "stop").mkdir()
    if not is_empty:
        (tmp_path / "stop/here").touch()
    assert request.is_made
    request.settle()
    assert (tmp_path / "stop").exists() is not is_empty
    assert ("cannot be removed" in capsys.readouterr().err) is not is_empty
