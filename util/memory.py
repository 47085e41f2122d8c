"""How much memory this process has used."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """The largest resident size of this process so far, in bytes.

    On Linux from the kernel's own record of this program: getrusage hands the peak of a larger parent down to the
    program it starts.
    """
    if (peak := _of_kernel("VmHWM:")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int | None:
    """The resident size of this process now, in bytes; None where the system does not tell."""
    return _of_kernel("VmRSS:")


def _of_kernel(name: str) -> int | None:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
