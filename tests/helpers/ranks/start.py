"""Start a script on several ranks of this machine, as torchrun would but without its own start-up."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(script, world_size, *arguments, timeout=300):
    """Run a script beside this file once per rank, on one core each; whatever a rank says is told if one fails."""
    tests = Path(__file__).parents[2]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": str(tests.parent),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
    }
    command = [sys.executable, str(tests / "helpers" / "ranks" / script), *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(text[-2000:] for text in said)
