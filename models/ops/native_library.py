"""Load a C++ file as a library, compiled at its first use for this processor and kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from util.base.console import print_note
from util.base.files import WriteError, write_atomically
from util.base.memory import CPU_INFO, kernel_values

COMPILERS = ("c++", "g++", "clang++")
# sums may be reordered, for vectorisation; NaN and infinity keep their meaning
FLAGS = (
    *("-std=c++11", "-O3", "-shared", "-fPIC", "-pthread", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
CPU_FLAGS = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
TIME_LIMIT = 300.0  # seconds for a compiler


class BuildError(RuntimeError):
    """The library cannot be built on this machine; the message is the reason, as the end of a sentence."""


def load_library(source: Path) -> ctypes.CDLL:
    """Load the library of a C++ file from the cache, or compile it.

    Its file name is a hash of all that it depends on, and it is written atomically: processes that build at the same
    time each build their own, and the last one stays. Where the cache folder cannot be written, it is not kept.

    A library is code that runs in this process, under a name that anybody can compute. So a file that other users may
    have put there or changed is built again, and nothing is kept in a folder of another user.

    Raises:
        BuildError: no compiler, or one that fails.
    """
    flags = (*FLAGS, *CPU_FLAGS.get(platform.machine(), ()))
    name = f"{source.stem}-{_fingerprint(source, flags)}.so"
    folder = _private_cache_folder()
    if folder is not None and _is_private(folder / name, stat.S_ISREG):
        try:
            return ctypes.CDLL(str(folder / name))
        except OSError:
            return _build(source, flags, folder / name)  # a damaged file, or a folder that may not hold programs
    return _build(source, flags, folder / name if folder else None)


def has_compiler() -> bool:
    """Whether a C++ compiler is named in $CXX or installed; it may fail all the same."""
    try:
        return bool(_compiler())
    except BuildError:
        return False


def _build(source: Path, flags: tuple[str, ...], kept: Path | None) -> ctypes.CDLL:
    """Compile a library, load it, and write it to `kept` if that is given."""
    try:
        with TemporaryDirectory() as folder:
            built = Path(folder) / f"{source.stem}.so"
            _compile([*_compiler(), *flags, "-o", str(built), str(source)])
            library = ctypes.CDLL(str(built))  # stays when the file goes
            if kept is not None:
                _keep(built, kept)
            return library
    except OSError as error:
        raise BuildError(f"the compiled library cannot be loaded ({error})") from error


def _keep(built: Path, kept: Path) -> bool:
    """Copy a library to the cache folder; False where that cannot be written, and each process compiles it again."""

    def write(file: IO[bytes]) -> None:
        os.fchmod(file.fileno(), 0o600)
        file.write(built.read_bytes())

    try:
        write_atomically(kept, write)
    except WriteError:
        return False
    return True


def _compile(command: list[str]) -> None:
    name = command[0]
    try:
        subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=TIME_LIMIT)
    except subprocess.CalledProcessError as error:
        lines = error.output.decode(errors="replace").strip().splitlines()[:3]
        output = " | ".join(line.strip() for line in lines) or "no output"
        raise BuildError(f"the C++ compiler {name} failed with exit code {error.returncode}: {output}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C++ compiler {name} cannot be run ({error})") from error


def _compiler() -> list[str]:
    try:
        if command := shlex.split(os.environ.get("CXX", "")):
            return command
    except ValueError as error:
        raise BuildError(f"$CXX is not a command line: {os.environ['CXX']} ({error})") from error
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise BuildError(f"no C++ compiler found (tried $CXX, {', '.join(COMPILERS)})")


def _private_cache_folder() -> Path | None:
    """The user's cache folder for libraries; None where there is none that only the user can write."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (named if named.is_absolute() else Path(os.path.expanduser("~/.cache"))) / "dino-tbx11k"
    if not folder.is_absolute():
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(folder, stat.S_ISDIR) and not _is_private(folder, stat.S_ISDIR):
            _make_private(folder)
    except OSError:
        return None
    if _is_private(folder, stat.S_ISDIR):
        return folder
    print_note(
        f"{folder}: belongs to another user or is a link, so no compiled library is loaded from there or kept there; "
        "each start compiles it. Remove that, or set XDG_CACHE_HOME to a folder of your own"
    )
    return None


def _make_private(folder: Path) -> None:
    """Remove the write permission of other users, and the libraries that they may have put there."""
    folder.chmod(0o700)
    for library in folder.glob("*.so"):
        library.unlink()
    print_note(f"{folder}: was writable by other users; fixed, and the libraries are compiled again")


def _is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether a path is the user's, of this kind and no link, and nobody else may write to it."""
    return _is_own(path, is_kind) and not path.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return is_kind(status.st_mode) and status.st_uid == os.geteuid()


def _fingerprint(source: Path, flags: tuple[str, ...]) -> str:
    machine = (*platform.libc_ver(), platform.system(), platform.machine(), *_processor())
    properties = "\n".join((*flags, *machine)).encode()
    return hashlib.sha256(source.read_bytes() + b"\0" + properties).hexdigest()[:16]


def _processor() -> list[str]:
    """What `-march=native` depends on: nodes that share a home folder may differ."""
    values = kernel_values(CPU_INFO)
    names = ("model name", "flags", "Features", "CPU part")
    return [values[name] for name in names if name in values] if values else [platform.processor()]
