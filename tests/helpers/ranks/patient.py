"""Run twice by tests/training/test_two_ranks.py: set-up that takes one rank longer than a collective waits."""

import time
from datetime import timedelta
from functools import partial
from unittest.mock import patch

from util.distributed import collectives

LIMIT, LONGER = timedelta(seconds=2), 5.0

if __name__ == "__main__":
    with patch.object(collectives, "COLLECTIVE_TIMEOUT", LIMIT), collectives.process_group("cpu") as process:
        for slow in (0, 1, None):
            collectives.run_on_all_ranks(partial(time.sleep, LONGER if process.rank == slow else 0.0))
