"""torchrun for job scripts: the same arguments and ranks, but a single line of error output and the ranks' exit code.

    python scripts/lib/ranks.py --standalone --nproc_per_node 2 main.py ...

torchrun itself exits with 1 for every code, and prints its own traceback below the error of the program, even if the
program was only asked to stop. It is killed by a SIGUSR1 meant for its ranks. A Ctrl-C in a terminal would reach the
ranks twice, directly and through torchrun, so this process leaves the terminal's process group: the shell that started
it forwards the signal.
"""

import logging
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import FINISHED, INTERRUPTED, MISTAKE, REQUEUE

if __name__ == "__main__":  # before torch is imported, which takes seconds
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background processes
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    logging.disable(logging.ERROR)  # torchrun repeats the errors of its ranks

EXPLAINED = (MISTAKE, REQUEUE, INTERRUPTED)  # main.py has logged why it ends


def main(arguments: list[str]) -> int:
    """Run the ranks; return the exit code of the first that failed, 128 + n if signal n killed it."""
    try:
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import main as torchrun
    except ImportError as error:
        fix = "set VENV to the folder of an environment that has requirements.txt, or activate one in scripts/site.sh"
        report(f"error: {sys.executable} has no PyTorch ({error}); {fix}")
        return MISTAKE
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            report(f"rank {rank} on {socket.gethostname()} was killed by {signal.Signals(-failure.exitcode).name}")
            return 128 - failure.exitcode
        if failure.exitcode not in EXPLAINED:
            report(f"rank {rank} on {socket.gethostname()} ended first, with exit code {failure.exitcode}")
        return failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:
        return INTERRUPTED
    return FINISHED


def report(text: str) -> None:
    """Print a line on standard error, after the output of the ranks."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
