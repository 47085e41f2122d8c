import json
import os
import select
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from termcolor import colored

from util.base.console import Progress, echo, print_error, print_note
from util.base.errors import UserError
from util.runlog.run_log import RunLog

ROW = {"lr": 1e-4, "loss": 12.34567, "loss_ce": 1.5, "grad_norm": 0.25, "boxes": 7, "time": 0.5, "data": 0.01}


@contextmanager
def terminal():
    """A real terminal as standard output; yields a function that reads what was written to it."""
    own_end, other_end = os.openpty()

    def read():
        sys.stdout.flush()
        text = b""
        while select.select([own_end], [], [], 0.2)[0]:  # the terminal hands on what was written a moment later
            text += os.read(own_end, 2**16)
        return text.decode()

    with os.fdopen(other_end, "w") as stream, mock.patch.object(sys, "stdout", stream):
        yield read
    os.close(own_end)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("util.base.console.time.monotonic", lambda: now[0])
    return now


def test_a_message_goes_to_the_console_and_to_info_txt(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.info("one")
    log.info("zwei: ü")
    assert capsys.readouterr().out == "one\nzwei: ü\n"
    assert (tmp_path / "info.txt").read_text(encoding="utf-8") == "one\nzwei: ü\n"


def test_a_new_log_of_the_same_folder_appends(tmp_path):
    RunLog(tmp_path).info("before the requeue")
    RunLog(tmp_path).info("after it")
    assert (tmp_path / "info.txt").read_text() == "before the requeue\nafter it\n"


def test_rows_are_json_one_per_line(tmp_path):
    log = RunLog(tmp_path)
    log.row("train", step=1, loss=0.1 + 0.2)
    log.row("eval", **{"all/per_class/AP": 0.5, "weights": "ema\n"})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [
        {"kind": "train", "step": 1, "loss": 0.1 + 0.2},
        {"kind": "eval", "all/per_class/AP": 0.5, "weights": "ema\n"},
    ]


def test_other_ranks_print_and_write_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.info("a")
    log.row("train", step=1)
    assert capsys.readouterr() == ("", "")
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_gone_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"info\.txt: cannot be written"):
        RunLog(tmp_path / "gone").info("a")


HOSTILE = "\x1b[31mred\r\x07\x9b\u202e\udcff"
ESCAPED = r"\x1b[31mred\r\x07\x9b\u202e\udcff"


@pytest.mark.parametrize("write", [echo, print_error, print_note, lambda text: RunLog(Path()).info(text)])
def test_control_characters_in_a_message_are_escaped(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    write(f"{HOSTILE}\n\tan indented line")
    out, err = capsys.readouterr()
    info = (tmp_path / "info.txt").read_text(encoding="utf-8") if (tmp_path / "info.txt").exists() else ""
    assert {text.split(": ")[-1] for text in (out, err, info) if text} == {f"{ESCAPED}\n\tan indented line\n"}


def test_control_characters_in_a_progress_label_are_escaped(capsys):
    progress = Progress(HOSTILE, 1, "images", every=0.0)
    progress.advance()
    assert capsys.readouterr().out.startswith(f"{ESCAPED}: 1/1 images")


def test_our_own_colour_stays(capsys, monkeypatch):
    monkeypatch.setattr("util.base.console.colored", partial(colored, force_color=True))
    print_error(HOSTILE)
    assert capsys.readouterr().err == f"\x1b[1m\x1b[31merror:\x1b[0m {ESCAPED}\n"


def test_errors_go_to_standard_error(capsys):
    print_error("no such file")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("no such file\n")
    assert "error:" in err


def test_in_a_file_progress_is_a_plain_line_now_and_then(capsys, clock):
    progress = Progress("evaluation", 100, "batches", every=30.0)
    for _ in range(100):
        clock[0] += 1
        progress.advance()
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == "evaluation: 30/100 batches  1.0 batches/s  eta: 0:01:10"
    assert not any(character in "".join(lines) for character in "\r\033")


def test_on_a_terminal_progress_renews_one_line_and_wipes_it(clock):
    with terminal() as read:
        progress = Progress("epoch 0", 3, "steps")
        for _ in range(3):
            clock[0] += 1
            progress.advance()
        progress.close()
        text = read()
    assert "\n" not in text
    assert text.count("\r\033[K") == 4
    assert "epoch 0: 3/3 steps  1.0 steps/s  eta: 0:00:00" in text
    assert text.endswith("\r\033[K")


def test_on_a_terminal_the_last_unit_is_always_shown(clock):
    with terminal() as read:
        progress = Progress("epoch 0", 50, "steps")
        for _ in range(50):
            clock[0] += 0.001
            progress.advance()
        assert "50/50" in read()


def test_a_message_does_not_land_on_the_progress_line(tmp_path):
    with terminal() as read:
        RunLog(tmp_path).info("hello")
        assert read() == "\r\033[Khello\r\n"
    assert (tmp_path / "info.txt").read_text() == "hello\n"


def advance_silently(clock):
    progress = Progress("evaluation", 3, "batches", is_shown=False)
    for _ in range(3):
        clock[0] += 100
        progress.advance()
    progress.close()


def test_silent_progress_is_silent(clock, capsys):
    advance_silently(clock)
    assert capsys.readouterr().out == ""
    with terminal() as read:
        advance_silently(clock)
        assert read() == ""
