"""torchrun for job scripts: takes its arguments, starts the same ranks, ends in one line and with their exit code.

    python scripts/lib/ranks.py --standalone --nproc_per_node 2 main.py ...

torchrun itself ends with 1 whatever the code was, and prints a traceback of its own under the message of the program,
also when the program was only asked to stop. It dies of a SIGUSR1 meant for its ranks. A Ctrl-C in a terminal would
reach the ranks twice, directly and through torchrun, so this process leaves the terminal's group: the shell that
started it passes the signal on.
"""

import logging
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import FINISHED, INTERRUPTED, MISTAKE, REQUEUE

if __name__ == "__main__":  # before torch is imported, which takes seconds
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background processes deaf to it
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    logging.disable(logging.ERROR)  # torchrun's account of what its ranks have told already

EXPLAINED = (MISTAKE, REQUEUE, INTERRUPTED)  # main.py has said why it ends


def main(arguments: list[str]) -> int:
    """Start the ranks and wait for them; the exit code of the first that failed, 128 + n where signal n killed it."""
    try:
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import main as torchrun
    except ImportError as error:
        fix = "set VENV to the folder of an environment that has requirements.txt, or activate one in scripts/site.sh"
        say(f"error: {sys.executable} has no PyTorch ({error}); {fix}")
        return MISTAKE
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            say(f"rank {rank} on {socket.gethostname()} was killed by {signal.Signals(-failure.exitcode).name}")
            return 128 - failure.exitcode
        if failure.exitcode not in EXPLAINED:
            say(f"rank {rank} on {socket.gethostname()} ended first, with exit code {failure.exitcode}")
        return failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:
        return INTERRUPTED
    return FINISHED


def say(text: str) -> None:
    """A line on standard error, after all the ranks have said."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
