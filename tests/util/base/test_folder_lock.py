"""One process at a time writes to a folder, and a killed one is in nobody's way."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from util.base import folder_lock
from util.base.errors import UserError
from util.base.folder_lock import LOCK, hold

ROOT = Path(__file__).parents[3]
HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from util.base.folder_lock import hold
with hold(Path(sys.argv[1]), "training"):
    child = 0
    if sys.argv[2] == "forks":
        child = os.fork()
    if sys.argv[2] == "starts":
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False).pid
    if child or sys.argv[2] == "alone":
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds tmp_path / "run"; (process, id of its child or 0)."""
    with ExitStack() as stack:

        def start(children="alone", **environment):
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, tmp_path / "run", children],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            child = int(process.stdout.readline())
            if child:
                stack.callback(os.kill, child, signal.SIGKILL)
            return process, child

        yield start


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
    process, _ = holder(SLURM_JOB_ID="4711")
    year = time.strftime("%Y")
    with pytest.raises(UserError) as caught, hold(tmp_path / "run", "evaluation"):
        pass
    assert re.fullmatch(
        rf"{tmp_path}/run: another training is writing there \(process {process.pid} on {os.uname().nodename}, since "
        rf"{year}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}, Slurm job 4711\); wait until it has ended, or choose another "
        "--output_dir",
        str(caught.value),
    )
    assert os.listdir(tmp_path / "run") == [LOCK]


@pytest.mark.parametrize("children", ["alone", "forks", "starts"])
def test_a_killed_process_holds_nothing_even_where_its_children_live_on(tmp_path, holder, children):
    process, child = holder(children)
    with pytest.raises(UserError, match=f"process {process.pid} "), hold(tmp_path / "run", "training"):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / "run" / LOCK).read_text(), "it is left, and locks nothing"
    with hold(tmp_path / "run", "training"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / LOCK).read_text()
        if child:
            os.kill(child, 0)  # it is there


def test_two_users_within_a_process_are_kept_apart(tmp_path):
    with hold(tmp_path, "training"):
        for _ in range(2):  # a refusal takes nothing away from who holds it
            with pytest.raises(UserError, match=f"process {os.getpid()} "), hold(tmp_path, "training"):
                pass
    with hold(tmp_path, "training"):
        pass


def test_the_end_of_a_forked_process_takes_nothing_away(tmp_path):
    with hold(tmp_path, "training"):
        if (child := os.fork()) == 0:
            try:
                folder_lock._let_go(tmp_path / LOCK, next(iter(folder_lock._held), -1), [])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / LOCK).exists()
        with pytest.raises(UserError), hold(tmp_path, "training"):
            pass


def test_a_folder_made_for_the_lock_goes_again_if_nothing_was_written_there(tmp_path):
    (tmp_path / "logs").mkdir()
    with hold(tmp_path / "logs/a/b", "training"):
        assert (tmp_path / "logs/a/b" / LOCK).is_file()
    assert os.listdir(tmp_path / "logs") == []
    with hold(tmp_path / "logs/a/b", "training"):
        (tmp_path / "logs/a/b/info.txt").touch()
    assert os.listdir(tmp_path / "logs/a/b") == ["info.txt"]
    (tmp_path / "empty").mkdir()
    with hold(tmp_path / "empty", "training"):
        pass
    assert os.listdir(tmp_path / "empty") == [], "it was there before"


def test_a_folder_that_disappears_meanwhile_spoils_no_end(tmp_path):
    with hold(tmp_path / "run", "training"):
        (tmp_path / "run" / LOCK).unlink()
        (tmp_path / "run").rmdir()


@pytest.mark.parametrize("what_goes", ["file", "folder"])
def test_a_lock_that_its_holder_takes_away_between_opening_and_locking_is_taken_anew(tmp_path, monkeypatch, what_goes):
    flock, calls = folder_lock.fcntl.flock, []

    def after_the_end_of_another(*args):
        calls.append(args)
        if len(calls) <= 2:
            (tmp_path / "run" / LOCK).unlink()
            if what_goes == "folder":
                (tmp_path / "run").rmdir()
        flock(*args)

    monkeypatch.setattr("fcntl.flock", after_the_end_of_another)
    with hold(tmp_path / "run", "training"):
        monkeypatch.undo()
        assert len(calls) == 3
        with pytest.raises(UserError, match="is writing there"), hold(tmp_path / "run", "training"):
            pass


def test_a_file_that_is_taken_away_again_and_again_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / LOCK).unlink())
    with pytest.raises(UserError, match="again and again"), hold(tmp_path, "training"):
        pass


def test_on_a_disk_without_locks_a_note_says_so_and_nothing_is_cleaned_away(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".checkpoint.pth.1.part").touch()
    monkeypatch.setattr("fcntl.flock", no_locks)
    with hold(tmp_path, "prediction"):
        assert (tmp_path / ".checkpoint.pth.1.part").exists()
    told = f"note: {tmp_path}: this disk knows no locks (No locks available); start no second prediction there\n"
    assert capsys.readouterr().err == told


def test_what_killed_processes_left_of_their_files_goes_at_once(tmp_path):
    parts = [".checkpoint.pth.1.part", "pictures/.a.png.png.1.part", "plots/.froc.png.1.part"]
    stay = ["eval_a/.report.json.1.part", "checkpoint.pth", "pictures/a.png.png"]
    for name in parts + stay:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with hold(tmp_path, "training"):
        assert [name for name in parts + stay if (tmp_path / name).exists()] == stay


def test_a_refused_start_cleans_nothing_away(tmp_path):
    with hold(tmp_path, "training"):
        (tmp_path / ".checkpoint.pth.1.part").touch()
        with pytest.raises(UserError), hold(tmp_path, "training"):
            pass
        assert (tmp_path / ".checkpoint.pth.1.part").exists()


def test_links_are_followed_neither_to_lock_nor_to_clean(tmp_path):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    run.mkdir()
    (victim / ".theirs.1.part").write_text("precious")
    (run / "plots").symlink_to(victim)
    with hold(run, "training"):
        assert (victim / ".theirs.1.part").exists()
    (run / LOCK).symlink_to(victim / ".theirs.1.part")
    with pytest.raises(UserError, match=r"run/\.lock: cannot be written"), hold(run, "training"):
        pass
    assert (victim / ".theirs.1.part").read_text() == "precious"


def test_what_is_no_file_is_no_lock(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(UserError, match="is no regular file; remove it"), hold(tmp_path, "training"):
        pass
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be written"), hold(tmp_path, "training"):
        pass
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=r"taken/run/\.lock: cannot be wr"), hold(tmp_path / "taken/run", "training"):
        pass


@pytest.mark.parametrize("text", ["", "x" * 10_000, "training by \x1b[2J\r\nFORGED", "\xff\x00 by \ud83d"])
def test_a_strange_text_in_the_lock_disturbs_no_message(tmp_path, text):
    with hold(tmp_path, "training"):
        (tmp_path / LOCK).write_text(text, errors="surrogatepass")
        with pytest.raises(UserError, match="is writing there") as caught, hold(tmp_path, "training"):
            pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700 + len(str(tmp_path))


def test_only_the_main_rank_locks(tmp_path, monkeypatch):
    with hold(tmp_path, "training"):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with hold(tmp_path, "training"), hold(tmp_path / "other", "training"):
            assert not (tmp_path / "other").exists()
