"""The promise: only the total batch makes a difference, not how it is cut into micro-batches and ranks."""

import json
import shutil

import pytest
import torch

from tests.helpers.ranks import layouts
from tests.helpers.ranks.start import launch
from util.training.step_size import StepSize

BOUND = 1e-9  # relative to the largest entry of the same loss, gradient or movement of a weight
QUICK = [StepSize(1, 4, 1), StepSize(2, 1, 2), StepSize(1, 2, 2)]
THOROUGH = [
    StepSize(*sizes)
    for sizes in (
        *[(1, 2, 1), (2, 2, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (1, 3, 1), (3, 2, 1)],
        *[(1, 1, 2), (4, 1, 2), (2, 2, 2), (1, 4, 2), (3, 1, 2), (1, 3, 2)],
        *[(1, 1, 3), (2, 1, 3), (1, 2, 3)],
        *[(1, 1, 4), (2, 1, 4), (1, 2, 4)],
    )
]


def cases():
    for cut in [*QUICK, *THOROUGH]:
        for pattern in layouts.PATTERNS:
            marks = [pytest.mark.slow] if cut in THOROUGH or pattern == "positive_share" else []
            yield case(cut, pattern, "plain", marks)
    yield case(StepSize(1, 2, 2), "short", "together")
    for knobs in [name for name in layouts.KNOBS if name not in ("plain", "together")]:
        for cut in StepSize(1, 4, 1), StepSize(1, 2, 2):
            for pattern in ("short", "one_box"):
                yield case(cut, pattern, knobs, [pytest.mark.slow])


def case(cut, pattern, knobs, marks=()):
    name = f"{'x'.join(map(str, cut))}-{pattern}"
    return pytest.param(cut, pattern, knobs, id=name if knobs == "plain" else f"{name}-{knobs}", marks=marks)


class Table:
    """Fills in what the chosen tests ask for, all cases of a number of ranks at once: processes start slowly."""

    def __init__(self, folder, chosen):
        self.folder = folder
        self.chosen = chosen
        self.deviations = {}

    def __getitem__(self, case):
        if case not in self.deviations:
            self.fill([other for other in self.chosen if other[0].ranks == case[0].ranks])
        return self.deviations[case]

    def fill(self, some):
        for cut, *what in some:
            path = layouts.reference(self.folder, cut, *what)
            if not path.exists():
                torch.save(layouts.train(StepSize(cut.images_per_step, 1, 1), *what), path)
        path = self.folder / "found.json"
        if some[0][0].ranks == 1:
            layouts.main(self.folder, some, path)
        else:
            launch("layouts.py", some[0][0].ranks, self.folder, json.dumps(some), path)
        self.deviations.update(zip(some, json.loads(path.read_text()), strict=True))


@pytest.fixture(scope="module")
def table(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    items = [item for item in request.session.items if item.name.startswith(PROMISE.__name__)]
    yield Table(folder, [tuple(item.callspec.params[name] for name in ("cut", "pattern", "knobs")) for item in items])
    shutil.rmtree(folder)


@pytest.mark.parametrize(("cut", "pattern", "knobs"), list(cases()))
def test_three_steps_are_those_of_one_big_batch(cut, pattern, knobs, table):
    deviations = table[cut, pattern, knobs]
    assert deviations.keys() == {"losses", "gradients", "moves"}
    assert {kind: worst for kind, worst in deviations.items() if not worst[0] <= BOUND} == {}


PROMISE = test_three_steps_are_those_of_one_big_batch
