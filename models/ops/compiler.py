"""What torch.compile needs, whatever it compiles: that it works on this machine, and room for the programs it makes."""

import subprocess
import time
from functools import cache

import torch
import torch.fx.experimental._config

# A function gets one program per kind of layer, mode (training, inference), number of images (one, several), presence
# of denoising queries and type. Of more programs than torch's 8 it would compile none, and go on without a word.
MOST_PROGRAMS = 64


@cache
def why_not(device_type: str) -> str | None:
    """What stands against torch.compile on "cpu" or "cuda" here, in one line, or None; tried once, on a tiny function.

    The function holds a number that was never compiled before: a compiler that is gone shall not be hidden by what is
    kept on the disk of its work.
    """
    number = time.time_ns() % 10**9 / 10**9
    function = torch.compile(lambda x: (x * number).sin() + 1, dynamic=False)
    try:
        function(torch.ones(64, device=device_type))
    except (RuntimeError, ImportError, OSError, AssertionError, subprocess.SubprocessError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {first}"[:300]
    return None


def allow_programs() -> None:
    """Let torch.compile make as many programs of a function as there are kinds of calls, each for all sizes."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_PROGRAMS)
    torch.fx.experimental._config.use_duck_shape = False  # or a square image gives a program for squares only
