import os
import signal
import subprocess
import sys

import pytest

from util.preemption import SIGNALS, StopRequest, leave_signals_to_parent


@pytest.fixture
def handlers():
    """The handlers of this process, put back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
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


@pytest.mark.usefixtures("handlers")
def test_a_sigterm_that_comes_twice_at_once_is_one_request():
    request = StopRequest()
    request.listen()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert request.signal == signal.SIGTERM


def end_of(*signals, wait=0.0):
    """How a process ends that gets these signals while it waits."""
    text = f"""
import os, signal, sys, time
from util.preemption import StopRequest
assert "torch" not in sys.modules
request = StopRequest()
request.listen()
for number in {[int(number) for number in signals]}:
    os.kill(os.getpid(), number)
    time.sleep({wait})
sys.exit(3)
"""
    return subprocess.run([sys.executable, "-c", text], check=False, timeout=30).returncode


def test_a_second_signal_ends_the_process_at_once():
    assert end_of(signal.SIGUSR1) == 3
    assert end_of(signal.SIGUSR1, signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert end_of(signal.SIGUSR1, signal.SIGTERM) == 128 + signal.SIGTERM
    assert end_of(signal.SIGTERM, signal.SIGUSR1) == 128 + signal.SIGUSR1


def test_a_second_sigterm_after_a_while_ends_the_process():
    assert end_of(signal.SIGTERM, signal.SIGTERM) == 3
    assert end_of(signal.SIGTERM, signal.SIGTERM, wait=1.1) == 128 + signal.SIGTERM


@pytest.mark.usefixtures("handlers")
def test_what_is_settled_is_not_disturbed():
    request = StopRequest()
    request.settle()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not request.is_made


@pytest.mark.usefixtures("handlers")
def test_loader_processes_leave_signals_to_their_parent():
    leave_signals_to_parent(0)
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


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
    monkeypatch.setattr("util.preemption.time.monotonic", lambda: now[0])
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
