"""SIGKILL at random moments of start, steps, saves and evaluations: the end is the same as without."""

import json
import random
from pathlib import Path

import pytest

from tests.helpers.training import assert_same_state, call_apart, figures, load, training

pytest_plugins = ["tests.helpers.training_fixtures"]
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "helpers" / "ranks" / "forked.py"
CHANGES = {"epochs": 3, "lr_drop": [2], "checkpoint_every_minutes": 1e-9, "log_every": 2, "num_workers": 1}
CUTS = {1: {}, 2: {"gradient_accumulation_steps": 1}}
SEED = 0


def run_all(room, plans):
    """The outcomes of a list of runs."""
    path = room / "plan.json"
    path.write_text(json.dumps(plans))
    outcome = call_apart(SCRIPT, path, timeout=900, env={"PYTHONPATH": str(SCRIPT.parents[3])})
    assert outcome.code == 0, outcome.err
    return list(map(json.loads, outcome.out.splitlines()))


def plan(phantom, folder, ranks, kill_after=None, in_save=False):
    """What tests/helpers/ranks/forked.py is told about one run."""
    arguments = training(phantom, folder, **CHANGES, **CUTS[ranks])
    return {
        "arguments": arguments,
        "ranks": ranks,
        "kill_after": kill_after,
        "in_save": in_save,
        "folder": str(folder),
    }


@pytest.mark.parametrize(("ranks", "kills"), [(1, 20), (2, 5)])
def test_a_run_killed_at_a_random_moment_ends_as_if_it_had_not_been(phantom, room, ranks, kills):
    """Every run is killed once, each fourth one in the middle of a save; then it goes on to its end."""
    draw = random.Random(SEED)
    [whole] = run_all(room, [plan(phantom, room / "whole", ranks)])
    assert whole["codes"] == [0] * ranks, (room / "whole.out").read_text()
    plans = []
    for number in range(kills):
        folder, moment = room / f"run{number}", (draw.randrange(len(figures(room / "whole"))), draw.uniform(0, 0.3))
        plans += [plan(phantom, folder, ranks, moment, number % 4 == 0), plan(phantom, folder, ranks)]
    ends = run_all(room, plans)
    killed, resumed = ends[::2], ends[1::2]
    print(json.dumps({"whole": whole, "killed": killed}))  # noqa: T201 for the record, with pytest -s
    assert sum(-9 in end["codes"] for end in killed) >= 0.9 * kills, "nearly all were killed before they had ended"
    assert any(end["cut_a_save"] for end in killed)
    for number, end in enumerate(resumed):
        assert end["codes"] == [0] * ranks, (room / f"run{number}.out").read_text()
        assert_same_state(load(room / f"run{number}/checkpoint.pth"), load(room / "whole/checkpoint.pth"))
        assert figures(room / f"run{number}") == figures(room / "whole")
