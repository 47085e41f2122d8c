import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from util import native_library
from util.native_library import BuildError, load_library

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "import sys; from pathlib import Path; from util.native_library import load_library; \
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
        ("false -x", "false failed with exit code 1: it says"),
        ("no-such", "no-such cannot be run"),
        ('"g++ -O2', r'\$CXX is no command line: "g\+\+ -O2 \(No closing quotation\)'),
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
