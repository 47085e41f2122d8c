"""What a launcher says in the environment. Nothing else reads that.

Knows no torch, so that a program can ask before that is imported.
"""

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
        """The one that writes."""
        return self.rank == 0


def current_process() -> ProcessInfo:
    """Read the rank of this process from torchrun's environment; without torchrun it is the only rank."""
    return ProcessInfo(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def is_under_torchrun() -> bool:
    """Whether torchrun is there, who passes on the SIGTERM that it gets, and kills 30 seconds after that."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def slurm_job() -> str:
    """The number of the Slurm job that this process is of; empty outside of one."""
    return os.environ.get("SLURM_JOB_ID", "")


def torchrun_store() -> tuple[str, int] | None:
    """Host and port where torchrun itself keeps what the ranks tell each other; None where rank 0 does."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def write_exit_code(code: int) -> None:
    """Write this rank's exit code into the file that EXIT_CODE_FILE names: torchrun itself makes a 1 of every code.

    The first rank that fails decides; those it takes down with it find the file there.

    Raises:
        OSError: the file cannot be written.
    """
    name = os.environ.get("EXIT_CODE_FILE")
    if name and code and not Path(name).exists():
        Path(name).write_text(f"{code}\n", encoding="utf-8")
