import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from util.base.errors import UserError
from util.base.files import WriteError, append, link_copy, remove_partial_files, write_atomically

ROOT = Path(__file__).parents[3]
TOO_BIG = """
import resource, signal, sys
from pathlib import Path
import torch
from util.base.files import WriteError
from util.training.checkpoints.file import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    save(Path(sys.argv[1]), {"model": {"a": torch.zeros(2**18)}})
except WriteError as error:
    print(error)
"""


def written(path, *parts):
    write_atomically(path, lambda file: [file.write(part) for part in parts])
    return path.read_bytes()


def test_a_file_is_written_whole_and_nothing_lies_beside_it(tmp_path):
    assert written(tmp_path / "deep" / "new" / "a.pth", b"ab", b"c") == b"abc"
    assert written(tmp_path / "deep" / "new" / "a.pth", b"d") == b"d"
    assert os.listdir(tmp_path / "deep" / "new") == ["a.pth"]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed\nC++ stack")]
)
def test_a_write_that_fails_in_the_middle_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a.pth"
    written(path, b"old")

    def write(file):
        file.write(b"half of the n")
        raise failure

    with pytest.raises(WriteError, match=r"a\.pth: cannot be written .*the file that was there before is untouched"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError("disk gone")

    with pytest.raises(WriteError) as caught:
        write_atomically(tmp_path / "a.pth", write)
    assert "was there before" not in str(caught.value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_passes_and_leaves_the_old_file_alone(tmp_path, interruption):
    path = tmp_path / "a.pth"
    written(path, b"old")

    def write(file):
        file.write(b"half")
        raise interruption

    with pytest.raises(interruption):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.pth"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.pth"
    written(path, b"old")

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomically(path, write)
    assert path.read_bytes() == b"new"


def half(folder, name, *, minutes):
    (folder / name).write_bytes(b"half")
    then = time.time() - 60 * minutes
    os.utime(folder / name, (then, then))


def test_what_a_killed_process_left_goes_once_it_is_an_hour_old(tmp_path):
    for name, minutes in {
        ".a.pth.123.part": 61,  # a half of this file
        ".a.pth.124.part": 59,  # perhaps still being written, perhaps on another machine
        ".b.pth.123.part": 99,  # of another file
        ".a.pth.bak.part": 99,  # not ours
        "a.pth.123.part": 99,
    }.items():
        half(tmp_path, name, minutes=minutes)
    written(tmp_path / "a.pth", b"new")
    left = {".a.pth.124.part", ".b.pth.123.part", ".a.pth.bak.part", "a.pth.123.part", "a.pth"}
    assert set(os.listdir(tmp_path)) == left


def test_an_old_half_goes_before_the_new_file_needs_the_room(tmp_path):
    half(tmp_path, ".a.pth.123.part", minutes=61)
    seen = []
    write_atomically(tmp_path / "a.pth", lambda _: seen.extend(os.listdir(tmp_path)))
    assert seen == [f".a.pth.{os.getpid()}.part"]


def test_an_old_half_that_cannot_be_removed_does_not_keep_the_file_from_being_written(tmp_path):
    (tmp_path / ".a.pth.124.part").mkdir()
    os.utime(tmp_path / ".a.pth.124.part", (0, 0))
    assert written(tmp_path / "a.pth", b"new") == b"new"


@pytest.fixture(params=["written", "copied"])
def put(request):
    """A way to get some bytes into a file."""
    return {"written": written, "copied": copied}[request.param]


def copied(path, *parts):
    source = path.with_name("source")
    source.write_bytes(b"".join(parts))
    link_copy(source, path)
    source.unlink()
    return path.read_bytes()


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def disk(request, monkeypatch):
    """With hard links, or without."""

    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr("os.link", no_links)


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("goes_somewhere", [True, False])
def test_a_link_planted_under_the_name_of_the_part_is_not_followed(tmp_path, put, goes_somewhere):
    victim, path = tmp_path / "victim", tmp_path / "new" / "a.json"
    if goes_somewhere:
        victim.write_bytes(b"precious")
    path.parent.mkdir()
    path.with_name(f".a.json.{os.getpid()}.part").symlink_to(victim)
    assert put(path, b"new") == b"new"
    assert not path.is_symlink()
    assert victim.exists() == goes_somewhere
    assert not goes_somewhere or victim.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.usefixtures("disk")
def test_a_part_left_by_a_process_of_the_same_id_is_replaced(tmp_path, put):
    (tmp_path / f".a.pth.{os.getpid()}.part").write_bytes(b"a longer half of something")
    assert put(tmp_path / "a.pth", b"new") == b"new"
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.usefixtures("disk")
def test_a_folder_under_the_name_of_the_part_is_the_users_error_and_stays(tmp_path, put):
    (tmp_path / f".a.pth.{os.getpid()}.part").mkdir()
    with pytest.raises(WriteError, match=r"a\.pth: cannot be written"):
        put(tmp_path / "a.pth", b"new")
    assert (tmp_path / f".a.pth.{os.getpid()}.part").is_dir()


def test_a_link_planted_while_the_part_is_being_replaced_is_not_followed_either(tmp_path, monkeypatch):
    part = tmp_path / f".a.pth.{os.getpid()}.part"
    part.write_bytes(b"half")
    unlink = type(part).unlink

    def plant(path, **more):
        unlink(path, **more)
        path.symlink_to(tmp_path / "victim")

    monkeypatch.setattr(type(part), "unlink", plant)
    with pytest.raises(WriteError, match="File exists"):
        write_atomically(tmp_path / "a.pth", lambda file: file.write(b"new"))
    assert not (tmp_path / "victim").exists()


def test_all_parts_of_a_folder_go_at_once_and_nothing_else(tmp_path):
    names = {".a.pth.123.part", ".b.pth.1.part", "..c.9.part", ".two\nlines.7.part"}
    others = {".a.pth.part", "a.pth.123.part", ".a.pth.x.part", "checkpoint.pth", ".hidden", ".1.part"}
    for name in names | others:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".a-folder.1.part").mkdir()
    (tmp_path / ".link.1.part").symlink_to(tmp_path / "checkpoint.pth")
    remove_partial_files(tmp_path)
    assert set(os.listdir(tmp_path)) == others | {".a-folder.1.part"}
    remove_partial_files(tmp_path / "not there")


def test_a_file_in_the_place_of_the_folder_is_the_users_error(tmp_path):
    (tmp_path / "logs").write_text("not a folder")
    with pytest.raises(UserError, match=r"logs/a\.pth: cannot be written"):
        written(tmp_path / "logs" / "a.pth", b"x")
    with pytest.raises(UserError, match=r"logs/info\.txt: cannot be written"):
        append(tmp_path / "logs" / "info.txt", "x")


def test_appended_text_comes_after_what_is_there(tmp_path):
    for text in ("a\n", "ü\n"):
        append(tmp_path / "info.txt", text)
    assert (tmp_path / "info.txt").read_text(encoding="utf-8") == "a\nü\n"


def test_a_disk_that_fills_up_during_torch_save_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", TOO_BIG, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "checkpoint.pth: cannot be written" in run.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["checkpoint.pth"]
