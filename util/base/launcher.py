"""The environment variables of torchrun and Slurm. No other module reads them."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessInfo:
    """Rank, world size and local rank of a process, from torchrun's environment."""

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0, which writes the files."""
        return self.rank == 0


def current_process() -> ProcessInfo:
    """Read the rank of this process from torchrun's environment; without torchrun it is the only rank."""
    return ProcessInfo(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def is_under_torchrun() -> bool:
    """Return whether torchrun started this process: it forwards a SIGTERM to its ranks and kills them 30 s later."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def slurm_job() -> str:
    """Return the id of the Slurm job; empty outside of a job."""
    return os.environ.get("SLURM_JOB_ID", "")


def torchrun_store() -> tuple[str, int] | None:
    """Return host and port of torchrun's own key-value store; None if rank 0 hosts the store."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def write_exit_code(code: int) -> None:
    """Write a failing exit code to the file named by EXIT_CODE_FILE, as torchrun turns every code into 1.

    The first failing rank decides; the ranks that fail because of it find the file there.

    Raises:
        OSError: the file cannot be written.
    """
    name = os.environ.get("EXIT_CODE_FILE")
    if name and code and not Path(name).exists():
        Path(name).write_text(f"{code}\n", encoding="utf-8")
