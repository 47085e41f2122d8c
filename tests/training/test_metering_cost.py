"""What metering costs: its share of the time of every optimizer step of a real training of the tiny recipe."""

import sys
import time
from contextlib import ExitStack
from functools import partial
from statistics import median, quantiles
from unittest.mock import patch

import pytest
import torch

import engine
import main
from datasets.phantom.write import make_phantom
from models.losses import criterion
from tests.helpers.training import CONFIG
from util.distributed.exit_codes import run_to_exit_code
from util.runlog.training_log import TrainingLog

pytestmark = pytest.mark.slow
MOST = 0.01
# all that the log alone needs: sums over a batch and a window, counts on the host, two meters, on some steps a row
METERING = ((criterion, "count_events"), (criterion, "_shares"), (engine, "_added"), (TrainingLog, "add"))


class Stopwatch:
    """Adds up the time spent in functions, and notes it with the duration of every step."""

    def __init__(self):
        self.spent, self.steps = 0.0, []

    def timed(self, function):
        def run(*args, **named):
            began = time.perf_counter()
            result = function(*args, **named)
            self.spent += time.perf_counter() - began
            return result

        return run

    def watch(self, windows):
        """The same windows; the time from one to the next is that of a step."""

        def run(*args):
            began = None
            for window in windows(*args):
                now = time.perf_counter()
                if began is not None:
                    self.steps.append((self.spent, now - began))
                self.spent, began = 0.0, now
                yield window

        return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=80, val=4, seed=0, positive_fraction=0.3)
    return folder


def test_metering_costs_less_than_a_hundredth_of_a_step(data, tmp_path):
    watch, threads = Stopwatch(), torch.get_num_threads()
    with ExitStack() as stack:
        for owner, name in METERING:
            stack.enter_context(patch.object(owner, name, watch.timed(getattr(owner, name))))
        stack.enter_context(patch.object(engine, "windows", watch.watch(engine.windows)))
        stack.enter_context(patch.object(main, "judge", lambda *_, **__: {}))
        torch.set_num_threads(1)
        stack.callback(torch.set_num_threads, threads)
        where = ["--data_path", str(data), "--output_dir", str(tmp_path / "run"), "--device", "cpu"]
        options = ["num_workers=0", "epochs=3", "lr_drop=[2]", "log_every=10"]
        assert run_to_exit_code(partial(main.main, ["-c", str(CONFIG), *where, "--options", *options])) == 0
    shares = [spent / whole for spent, whole in watch.steps]
    assert len(shares) == 3 * 19
    assert sum(spent > 0 for spent, _ in watch.steps) == len(shares)
    whole = sum(spent for spent, _ in watch.steps) / sum(whole for _, whole in watch.steps)
    low, middle, high = (100 * share for share in quantiles(shares, n=4))
    step, cost = (1000 * median(column[i] for column in watch.steps) for i in (1, 0))
    sys.stdout.write(
        f"\nmetering: median {middle:.2f} % of a step (quartiles {low:.2f} and {high:.2f}), {100 * whole:.2f} % of all "
        f"time; {cost:.2f} ms of {step:.0f} ms\n"
    )
    assert median(shares) < MOST
    assert whole < MOST
