"""Resident memory of this process, and how the C library handles freed memory."""

import ctypes
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CPU_INFO = Path("/proc/cpuinfo")


def peak_resident_bytes() -> int:
    """Return the peak resident size of this process in bytes.

    On Linux from /proc, as a program that a larger process starts inherits the peak of its parent in getrusage.
    """
    if (peak := kernel_bytes(STATUS, "VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int | None:
    """Return the resident size of this process in bytes; None if the system does not report it."""
    return kernel_bytes(STATUS, "VmRSS")


def kernel_bytes(path: Path, name: str) -> int | None:
    """Read a size in bytes from a file of the kernel; None if it is not there."""
    size = kernel_values(path).get(name)
    return None if size is None else int(size.split()[0]) * 1024


def kernel_values(path: Path) -> dict[str, str]:
    """Read the lines `name: value` of a file of the kernel, the first of each name; none if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}


# Parameters of glibc's mallopt
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
KEEP_FREED = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
DEFAULT = {
    M_MMAP_MAX: 65_536,
    M_TRIM_THRESHOLD: 2**26,
    M_MMAP_THRESHOLD: 2**25,
}  # where glibc's dynamic thresholds end up


def keep_freed_memory(is_kept: bool) -> bool:
    """Choose whether freed memory stays with the process; return True if the C library supports it (glibc).

    By default each large tensor is mapped and unmapped, and at the next step every page of it causes a fault and is
    zeroed again: a tenth of a training step on a CPU.
    """
    libc = _libc()
    if libc is None:
        return False
    is_set = all([libc.mallopt(what, value) == 1 for what, value in (KEEP_FREED if is_kept else DEFAULT).items()])
    if not is_kept:
        give_back_memory()
    return is_set


def give_back_memory() -> None:
    """Return unused memory to the system, if the C library supports it (glibc)."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
