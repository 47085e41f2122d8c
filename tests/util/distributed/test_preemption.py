import os
import signal
import subprocess
import sys

import pytest

from util.distributed.preemption import SIGNALS, StopRequest, ignore_signals_in_worker


@pytest.fixture
def handlers():
    """The handlers of this process, restored afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_recorded(number):
    request = StopRequest()
    request.listen()
    assert not request.is_requested
    os.kill(os.getpid(), number)
    assert request.is_requested
    assert request.signal == number


def end_of(*signals, **env):
    """The return code of a process that gets these signals."""
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


def test_under_torchrun_a_second_sigterm_is_forwarded_by_torchrun():
    assert end_of(signal.SIGTERM, signal.SIGTERM) == 128 + signal.SIGTERM
    assert end_of(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, TORCHELASTIC_RUN_ID="x") == 3
    assert end_of(signal.SIGUSR1, signal.SIGUSR1, TORCHELASTIC_RUN_ID="x") == 128 + signal.SIGUSR1


def test_the_exit_code_of_a_second_signal_reaches_the_launcher(tmp_path):
    end_of(signal.SIGUSR1, signal.SIGUSR1, EXIT_CODE_FILE=tmp_path / "code")
    assert (tmp_path / "code").read_text() == f"{128 + signal.SIGUSR1}\n"
    assert end_of(signal.SIGUSR1, signal.SIGUSR1, EXIT_CODE_FILE=tmp_path / "absent/code") == 128 + signal.SIGUSR1


@pytest.mark.usefixtures("handlers")
def test_signals_after_saving_are_ignored():
    request = StopRequest()
    request.listen()
    request.ignore_further_signals()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not request.is_requested


@pytest.mark.usefixtures("handlers")
def test_without_listening_no_signal_is_ignored():
    before = [signal.getsignal(number) for number in SIGNALS]
    StopRequest().ignore_further_signals()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.usefixtures("handlers")
def test_loader_workers_ignore_signals(monkeypatch):
    monkeypatch.setattr("util.distributed.preemption.die_with_parent", lambda: None)  # this process is none
    ignore_signals_in_worker(0)
    assert {signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)} == {signal.SIG_IGN}


def test_items_end_with_the_request():
    request = StopRequest()
    seen = []
    for item in request.until_requested(range(5)):
        seen.append(item)
        if item == 2:
            request.signal = signal.SIGUSR1
    assert seen == [0, 1, 2]


@pytest.mark.usefixtures("handlers")
def test_a_file_is_a_request_checked_once_a_second(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.distributed.preemption.time.monotonic", lambda: now[0])
    request = StopRequest()
    request.watch_file(tmp_path / "stop")
    assert not request.is_requested
    (tmp_path / "stop").touch()
    assert not request.is_requested
    now[0] = 1.0
    assert request.is_requested
    assert request.requested_by == str(tmp_path / "stop")
    request.ignore_further_signals()
    assert not (tmp_path / "stop").exists()
    assert request.is_requested, "a request stays a request"


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_folder_of_that_name_is_a_request_too(tmp_path, is_empty, capsys):
    request = StopRequest()
    request.watch_file(tmp_path / "stop")
    (tmp_path / "stop").mkdir()
    if not is_empty:
        (tmp_path / "stop/here").touch()
    assert request.is_requested
    request.ignore_further_signals()
    assert (tmp_path / "stop").exists() is not is_empty
    assert ("cannot be removed" in capsys.readouterr().err) is not is_empty
