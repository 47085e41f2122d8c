"""The batch size of a prediction, from the free memory and the memory that one image takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from util.base.memory import MEMINFO, give_back_memory, kernel_bytes, peak_resident_bytes, resident_bytes

CGROUP = Path("/proc/self/cgroup")
CLEAR = Path("/proc/self/clear_refs")
CGROUPS = Path("/sys/fs/cgroup")
SHARE = 0.5  # of the free memory that images may take; the rest is for other programs and fragmentation
LARGEST = {"cuda": 32, "cpu": 8}  # images; more gains nothing


def choose_batch_size(device: torch.device, bytes_per_image: int | None) -> int:
    """The number of images of one size to detect on at once; 1 where the memory cannot be measured."""
    free = free_bytes(device)
    if not free or not bytes_per_image:
        return 1
    return max(1, min(LARGEST[device.type], int(SHARE * free / bytes_per_image)))


def bytes_taken(device: torch.device, work: Callable[[], object]) -> int | None:
    """The peak memory of `work` beyond what was in use before; None where it cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    give_back_memory()  # memory kept for reuse would be taken first, uncounted
    is_reset = _forget_peak()
    resident = resident_bytes()
    work()
    return max(1, peak_resident_bytes() - resident) if is_reset and resident else None


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the GPU, or of the machine and of the control group, as under Slurm or in a container."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [limit for limit in (kernel_bytes(MEMINFO, "MemAvailable"), _left_of_share()) if limit is not None]
    return max(0, min(limits)) if limits else None


def _left_of_share() -> int | None:
    """Free memory below the limit of the control group, version 2; None without one."""
    try:
        group = next(
            line.partition("::")[2]
            for line in CGROUP.read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
        folder = CGROUPS / group.strip("/")
        limit, used = ((folder / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError, StopIteration):  # "max" is no number: there is no limit
        return None


def _forget_peak() -> bool:
    """Reset the peak that the kernel records; whether it worked."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
