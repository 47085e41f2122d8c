"""A C++ file as a library, compiled at its first use for the processor at hand and kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from util.files import WriteError, write_whole

COMPILERS = ("c++", "g++", "clang++")
# sums may be taken in any order, as vectors need; NaN and infinity stay what they are
FLAGS = (
    *("-std=c++11", "-O3", "-shared", "-fPIC", "-pthread", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
CPU_FLAGS = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
TIME_LIMIT = 300.0  # seconds for a compiler
CPU_INFO = Path("/proc/cpuinfo")


class BuildError(RuntimeError):
    """There is no such library on this machine: the message is the reason, as the end of a sentence."""


def load_library(source: Path) -> ctypes.CDLL:
    """The library of a C++ file: as it was kept, else compiled now.

    It is kept under a name made of all that it depends on, and written whole: processes that build at once each build
    their own, and the last one stays. Where the cache folder cannot be written, it serves this process alone.

    Raises:
        BuildError: no compiler, or one that fails.
    """
    flags = (*FLAGS, *CPU_FLAGS.get(platform.machine(), ()))
    kept = _cache_folder() / f"{source.stem}-{_fingerprint(source, flags)}.so"
    if kept.is_absolute() and os.path.exists(kept):
        try:
            return ctypes.CDLL(str(kept))
        except OSError:
            return _build(source, flags, kept)  # a damaged file, or a folder that may not hold programs
    return _build(source, flags, kept)


def _build(source: Path, flags: tuple[str, ...], kept: Path) -> ctypes.CDLL:
    try:
        with TemporaryDirectory() as folder:
            built = Path(folder) / kept.name
            _compile([*_compiler(), *flags, "-o", str(built), str(source)])
            library = ctypes.CDLL(str(built))  # stays when the file goes
            _keep(built, kept)
            return library
    except OSError as error:
        raise BuildError(f"the compiled library cannot be loaded ({error})") from error


def _keep(built: Path, kept: Path) -> bool:
    if not kept.is_absolute():
        return False
    try:
        write_whole(kept, lambda file: file.write(built.read_bytes()))
    except WriteError:
        return False
    return True


def _compile(command: list[str]) -> None:
    name = command[0]
    try:
        subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=TIME_LIMIT)
    except subprocess.CalledProcessError as error:
        lines = error.output.decode(errors="replace").strip().splitlines()[:3]
        said = " | ".join(line.strip() for line in lines) or "it says nothing"
        raise BuildError(f"the C++ compiler {name} failed with exit code {error.returncode}: {said}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C++ compiler {name} cannot be run ({error})") from error


def _compiler() -> list[str]:
    try:
        if wish := shlex.split(os.environ.get("CXX", "")):
            return wish
    except ValueError as error:
        raise BuildError(f"$CXX is no command line: {os.environ['CXX']} ({error})") from error
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise BuildError(f"no C++ compiler found (tried $CXX, {', '.join(COMPILERS)})")


def _cache_folder() -> Path:
    """Relative where the user has none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = named if named.is_absolute() else Path(os.path.expanduser("~/.cache"))
    return folder / "dino-tbx11k"


def _fingerprint(source: Path, flags: tuple[str, ...]) -> str:
    machine = (*platform.libc_ver(), platform.system(), platform.machine(), *_processor())
    told = "\n".join((*flags, *machine)).encode()
    return hashlib.sha256(source.read_bytes() + b"\0" + told).hexdigest()[:16]


def _processor() -> list[str]:
    """What "native" means here: nodes that share a home folder may differ."""
    if not CPU_INFO.exists():
        return [platform.processor()]
    lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    return [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
