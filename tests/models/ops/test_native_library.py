import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from models.ops import native_library
from models.ops.native_library import BuildError, load_library

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from pathlib import Path; from models.ops.native_library import load_library; \
print(load_library(Path(sys.argv[1])).answer())"


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small.cpp"
    write(path, 42)
    return path


@pytest.fixture
def compiler():
    if not any(map(shutil.which, native_library.COMPILERS)):
        pytest.skip("no C++ compiler")


def write(path, number):
    path.write_text(f'extern "C" int answer() {{ return {number}; }}\n')


def kept(source):
    return sorted((source.parent / "cache").rglob("*"))


def libraries(source):
    return [path for path in kept(source) if path.is_file()]


@pytest.mark.usefixtures("compiler")
def test_it_is_compiled_once_and_again_when_the_source_changes(source, monkeypatch):
    assert load_library(source).answer() == 42
    (first,) = libraries(source)
    monkeypatch.setenv("CXX", "false")  # what is kept needs no compiler
    assert load_library(source).answer() == 42
    monkeypatch.delenv("CXX")
    write(source, 43)
    assert load_library(source).answer() == 43
    assert len(libraries(source)) == 2
    assert first in libraries(source)


@pytest.mark.usefixtures("compiler")
def test_another_processor_gets_a_library_of_its_own(source, monkeypatch, tmp_path):
    load_library(source)
    other = tmp_path / "cpuinfo"
    other.write_text("model name : another\nflags : few\n\nmodel name : another\n")
    monkeypatch.setattr(native_library, "CPU_INFO", other)
    load_library(source)
    assert len(libraries(source)) == 2


@pytest.mark.usefixtures("compiler")
def test_a_damaged_library_is_built_again(source):
    load_library(source)
    (path,) = libraries(source)
    whole = path.read_bytes()
    path.unlink()  # as it is in use here
    path.write_bytes(whole[:100])
    run = [sys.executable, "-c", PROGRAM, str(source)]
    assert subprocess.check_output(run, cwd=ROOT, text=True).strip() == "42"
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_where_the_cache_folder_cannot_be_written_it_works_without(source, monkeypatch, variable):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv(variable, str(source))  # a file is no folder
    assert load_library(source).answer() == 42
    assert source.is_file()


@pytest.fixture
def planted(source, tmp_path):
    """The path of the kept library of a source, and a library in its place that answers 666."""
    load_library(source)
    (path,) = libraries(source)
    evil = tmp_path / "evil.cpp"
    write(evil, 666)
    subprocess.check_call([*native_library._compiler(), "-shared", "-fPIC", "-o", tmp_path / "evil.so", evil])
    path.unlink()
    shutil.copy(tmp_path / "evil.so", path)
    path.chmod(0o600)
    return path


def as_another_process(source):
    """What the library of a source answers, and what is noted: a process loads each of its libraries once."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(source)], cwd=ROOT, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    return int(run.stdout), run.stderr


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.mark.usefixtures("compiler")
def test_the_folder_and_the_library_are_the_users_alone_whatever_the_umask(source):
    umask = os.umask(0)
    try:
        load_library(source)
    finally:
        os.umask(umask)
    (path,) = libraries(source)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path)] == [0o700, 0o600]


@pytest.mark.usefixtures("compiler")
def test_the_planted_library_of_these_tests_would_be_loaded(source, planted):
    assert planted.exists()
    assert as_another_process(source) == (666, "")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_library_that_others_may_write_is_compiled_again(source, planted, mode):
    planted.chmod(mode)
    assert as_another_process(source) == (42, "")
    assert stat.S_IMODE(planted.stat().st_mode) == 0o600
    assert as_another_process(source) == (42, "")


@needs_root
@pytest.mark.usefixtures("compiler")
def test_a_library_of_another_user_is_compiled_again(source, planted):
    os.chown(planted, 65534, 65534)
    assert as_another_process(source) == (42, "")
    assert planted.stat().st_uid == os.geteuid()


@pytest.mark.usefixtures("compiler")
def test_a_link_in_the_place_of_a_library_is_replaced_and_not_followed(source, planted, tmp_path):
    planted.unlink()
    planted.symlink_to(tmp_path / "evil.so")
    evil = (tmp_path / "evil.so").read_bytes()
    assert as_another_process(source) == (42, "")
    assert not planted.is_symlink()
    assert (tmp_path / "evil.so").read_bytes() == evil


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("mode", [0o770, 0o703, 0o1777])
def test_a_folder_that_others_may_write_is_closed_and_its_libraries_are_compiled_again(source, planted, mode):
    planted.parent.chmod(mode)
    answer, note = as_another_process(source)
    assert answer == 42
    assert note.startswith(f"note: {planted.parent}: was writable by other users; fixed")
    assert stat.S_IMODE(planted.parent.stat().st_mode) == 0o700
    assert as_another_process(source) == (42, "")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", ["link", pytest.param("of another user", marks=needs_root)])
def test_a_folder_of_somebody_else_is_neither_used_nor_changed(source, planted, tmp_path, kind):
    folder = planted.parent
    if kind == "link":
        folder.rename(tmp_path / "theirs")
        folder.symlink_to(tmp_path / "theirs")
    else:
        os.chown(folder, 65534, 65534)
        folder.chmod(0o777)
    before = planted.read_bytes(), stat.S_IMODE(folder.stat().st_mode)
    answer, note = as_another_process(source)
    assert answer == 42
    assert note.startswith(f"note: {folder}: belongs to another user or is a link, so no compiled library is loaded")
    assert note.count("note:") == 1
    assert (planted.read_bytes(), stat.S_IMODE(folder.stat().st_mode)) == before
    assert os.listdir(folder) == [planted.name]


@pytest.mark.usefixtures("compiler")
def test_processes_that_build_at_once_leave_one_whole_library(source):
    run = [sys.executable, "-c", PROGRAM, str(source)]
    processes = [subprocess.Popen(run, cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["42"] * 3
    assert len(libraries(source)) == 1
    assert load_library(source).answer() == 42


@pytest.mark.usefixtures("compiler")
def test_the_error_holds_what_the_compiler_says(source):
    source.write_text("int answer( {\n")
    with pytest.raises(BuildError, match=r"failed with exit code \d+: .*small\.cpp:1"):
        load_library(source)
    assert not libraries(source)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("false -x", "false failed with exit code 1: no output"),
        ("no-such", "no-such cannot be run"),
        ('"g++ -O2', r'\$CXX is not a command line: "g\+\+ -O2 \(No closing quotation\)'),
    ],
)
def test_the_compiler_that_the_user_names_is_taken_and_no_other(source, monkeypatch, named, reason):
    monkeypatch.setenv("CXX", named)
    with pytest.raises(BuildError, match=reason):
        load_library(source)


def test_without_a_compiler_the_error_says_what_was_looked_for(source, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found \(tried \$CXX, c\+\+, g\+\+, clang\+\+\)"):
        load_library(source)
