"""How many images fit into memory at once, measured with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from util.base.memory import MEMINFO, STATUS, give_back_memory, kernel_bytes, resident_bytes

CGROUP = Path("/proc/self/cgroup")
CLEAR = Path("/proc/self/clear_refs")
CGROUPS = Path("/sys/fs/cgroup")
SHARE = 0.5  # of the free memory that images may take; the rest is for what others do, and for fragments
LARGEST = {"cuda": 32, "cpu": 8}  # images; more gains nothing


def choose_batch_size(device: torch.device, bytes_per_image: int | None) -> int:
    """Images of one size to detect on at once; 1 where the memory cannot be measured."""
    free = free_bytes(device)
    if not free or not bytes_per_image:
        return 1
    return max(1, min(LARGEST[device.type], int(SHARE * free / bytes_per_image)))


def bytes_taken(device: torch.device, work: Callable[[], object]) -> int | None:
    """What a piece of work takes at its peak beyond what was taken before; None where nobody counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    give_back_memory()  # what is kept without need would be taken first, and go unseen
    is_reset = _forget_peak()
    before = resident_bytes()
    work()
    peak = kernel_bytes(STATUS, "VmHWM")
    return max(1, peak - before) if is_reset and before and peak else None


def free_bytes(device: torch.device) -> int | None:
    """What may still be taken: of the GPU, or of the machine and, under Slurm or in a container, of its share."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [limit for limit in (kernel_bytes(MEMINFO, "MemAvailable"), _left_of_share()) if limit is not None]
    return max(0, min(limits)) if limits else None


def _left_of_share() -> int | None:
    """By the limit of the control group, version 2; None without one."""
    try:
        group = next(line.partition("::")[2] for line in CGROUP.read_text().splitlines() if line.startswith("0::"))
        folder = CGROUPS / group.strip("/")
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError, StopIteration):  # "max" is no number: there is no limit
        return None


def _forget_peak() -> bool:
    """Make the kernel's record of the peak begin anew; whether it did."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True
