"""How much memory this process has used, and what becomes of memory that it no longer needs."""

import ctypes
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CPU_INFO = Path("/proc/cpuinfo")


def peak_resident_bytes() -> int:
    """The largest resident size of this process so far, in bytes.

    On Linux from the kernel's own record of this program: getrusage hands the peak of a larger parent down to the
    program it starts.
    """
    if (peak := kernel_bytes(STATUS, "VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int | None:
    """The resident size of this process now, in bytes; None where the system does not tell."""
    return kernel_bytes(STATUS, "VmRSS")


def kernel_bytes(path: Path, name: str) -> int | None:
    """A size in a file of the kernel, in bytes; None where it is not there."""
    size = kernel_values(path).get(name)
    return None if size is None else int(size.split()[0]) * 1024


def kernel_values(path: Path) -> dict[str, str]:
    """The lines `name: value` of a file of the kernel, the first of each name; none where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}


# glibc's mallopt: sizes from which on memory is fetched on its own, and free memory is given back; number of fetches
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
USUAL = {M_MMAP_MAX: 65_536, M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}  # where glibc's own rule ends up


def keep_freed_memory(is_kept: bool) -> bool:
    """Whether freed memory stays with the process; True if this C library can be told (glibc).

    Usually each large tensor is fetched from the system and given back, and at the next step every page of it comes
    as a fault and is zeroed anew: a tenth of a training step on a CPU.
    """
    libc = _libc()
    if libc is None:
        return False
    is_told = all([libc.mallopt(what, value) == 1 for what, value in (KEEPING if is_kept else USUAL).items()])
    if not is_kept:
        give_back_memory()
    return is_told


def give_back_memory() -> None:
    """Give the system all memory that this process keeps without need, where the C library can (glibc)."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
