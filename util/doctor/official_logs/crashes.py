"""Find in the output of a job what ended it, and on which rank, by the messages of PyTorch, CUDA, Slurm and the kernel.

The first message counts; what other ranks print as a consequence, such as a timeout, only where there is no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from util.base.text import printable
from util.runlog.rows import Row

LONGEST = 160  # letters of a message that are shown
GOES_ON = 2  # training lines after a message from which on the training is seen to continue


class Kind(NamedTuple):
    """A way to end.

    Args:
        name: an identifier that stays the same over versions.
        pattern: of its messages.
        is_consequence: other ranks print it when one has ended.
    """

    name: str
    pattern: re.Pattern[str]
    is_consequence: bool = False


def _kind(name: str, *messages: str, is_consequence: bool = False) -> Kind:
    return Kind(name, re.compile("|".join(messages)), is_consequence)


KILLED = (  # by Slurm, the kernel, a loader, a shell, torchrun
    r"oom[-_ ]?kill",
    r"task \d+: (?:Out Of Memory|Killed)",
    r"Out of memory: Kill",
    r"killed by signal: Killed",
    r"^(?:.*?: line \d+: +)?(?:\d+ +)?Killed\b",
    r"Signal 9 \(SIGKILL\)",
    r"Signals\.SIGKILL",
    r"exitcode\s*: -9\b",
)
TIMEOUTS = (
    r"collective operation timeout",
    r"NCCL (?:timeout|error|communicator was aborted)",
    r"nccl\w*Error\b",
    r"Connection (?:reset|closed) by peer",
    r"Timed out initializing process group",
)
FAILED = (r"ChildFailedError", r"failed \(exitcode: -?\d+\)", r"CalledProcessError", r"exitcode\s*: [1-9]")
KINDS = (  # the first one that a line matches counts
    _kind(
        "cuda_out_of_memory", "CUDA out of memory", "CUDA error: out of memory", r"OutOfMemoryError", "_ALLOC_FAILED"
    ),
    _kind("cudnn_not_initialised", "CUDNN_STATUS_", "cuDNN error"),
    _kind("label_out_of_range", "device-side assert"),
    _kind("cuda_error", r"CUDA error: ", r"CUBLAS_STATUS_", r"CUDA driver version is insufficient"),
    _kind("no_deformable_attention", r"(No module named|ImportError|undefined symbol).*MultiScaleDeformableAttention"),
    _kind("missing_module", r"ModuleNotFoundError: "),
    _kind("disk_full", "No space left on device", "Disk quota exceeded"),
    _kind("missing_file", r"FileNotFoundError: ", r"No such file or directory: '"),
    _kind("bus_error", "Bus error", r"\bSIGBUS\b", "insufficient shared memory", r"exitcode\s*: -7\b"),
    _kind("segmentation_fault", "Segmentation fault", r"\bSIGSEGV\b", r"exitcode\s*: -11\b"),
    _kind("killed_for_memory", *KILLED),
    _kind("time_limit", "DUE TO TIME LIMIT"),
    _kind("cancelled", r"slurmstepd: error: .*CANCELLED AT"),
    _kind("port_in_use", r"EADDRINUSE", "Address already in use"),
    _kind("nccl_timeout", *TIMEOUTS, is_consequence=True),
    _kind("process_failed", *FAILED, is_consequence=True),
)
PYTHON_ERROR = "python_error"
EXCEPTION = re.compile(r"^(?:\[\w*?\d+\]:\s*)?(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")
RANKS = (  # how a line says which rank it is of, the surest first
    re.compile(r"\[rank ?(\d+)\]"),
    re.compile(r"\[default(\d+)\]"),
    re.compile(r"\b[Rr]ank:? ?(\d+)\b"),
    re.compile(r"\btask (\d+):"),
    re.compile(r"^\s*(\d{1,4}): "),  # srun --label
)
GPU = re.compile(r"\bGPU (\d+)\b")
LOCAL_RANK = re.compile(r"failed \(exitcode: -?\d+\) local_rank: (\d+)")
ROOT_CAUSE = re.compile(r"^\W*rank\s*: (\d+) \(local_rank: \d+\)")
EXIT_CODE = re.compile(r"exitcode\s*: (-?\d+)")


@dataclass
class _Message:
    kind: str
    is_consequence: bool
    line: str
    rank: str | None
    epoch: int
    progress: int


class CrashParser:
    """Collects the messages of crashes line by line."""

    def __init__(self) -> None:
        self._found: dict[str, _Message] = {}
        self._failed_rank: str | None = None  # as torchrun reports it
        self._local_rank: str | None = None
        self._exit_code: str | None = None
        self._is_at_root_cause = False
        self._has_traceback = False

    def feed(self, line: str, epoch: int, progress: int) -> None:
        """Look at a line.

        Args:
            line: of the output.
            epoch: at which the training is.
            progress: training lines so far.
        """
        self._is_at_root_cause |= "Root Cause" in line
        if self._is_at_root_cause and (found := ROOT_CAUSE.search(line)):
            self._failed_rank = found[1]
        if found := LOCAL_RANK.search(line):
            self._local_rank = found[1]
        if found := EXIT_CODE.search(line):
            self._exit_code = found[1]
        kind = next((kind for kind in KINDS if kind.pattern.search(line)), None)
        if kind is None and self._has_traceback and EXCEPTION.match(line):
            kind = Kind(PYTHON_ERROR, EXCEPTION)
        self._has_traceback |= "Traceback (most recent call last)" in line
        if kind is not None:
            rank = next((found[1] for pattern in RANKS if (found := pattern.search(line))), None)
            message = _Message(kind.name, kind.is_consequence, line.strip(), rank, epoch, progress)
            known = self._found.setdefault(kind.name, message)
            if progress >= known.progress + GOES_ON:  # of an earlier part, after which the training was resumed
                self._found[kind.name] = message

    def crashes(self, progress: int) -> tuple[Row, ...]:
        """The row of what ended the run; empty where nothing did.

        Args:
            progress: training lines of the whole log.
        """
        last = max((message.progress for message in self._found.values()), default=0)
        ends = [message for message in self._found.values() if message.progress + GOES_ON > last]
        if not ends:
            return ()
        root = min(ends, key=lambda message: message.is_consequence)  # the first one of those
        row = {
            "kind": "crash",
            "epoch": root.epoch,
            "name": root.kind,
            "message": printable(root.line)[:LONGEST],
            "rank": self._where(root),
            "exit_code": self._exit_code,
            "is_over": progress >= root.progress + GOES_ON,
        }
        return (row,)

    def _where(self, message: _Message) -> str:
        """The rank of a message, as its line says it, else as torchrun reports it, else the GPU; "" where none does."""
        if (rank := message.rank or self._failed_rank) is not None:
            return f"rank {rank}"
        gpu = GPU.search(message.line)
        if self._local_rank is not None:
            return f"local rank {self._local_rank}"
        return f"GPU {gpu[1]}" if gpu else ""
