"""Checkpoints with one part that is not what it should be: every use ends well or with one message, never otherwise."""

import os
import shutil
from itertools import islice

import pytest
import torch

from tests.helpers.files.hostile_checkpoints import by_chance, by_entry, by_part, by_tensor
from tests.helpers.predict import predict
from tests.helpers.training import ONE_EPOCH, call, first_image, load, training
from tests.training.test_resume import EVERY_STEP, cut_off

pytest_plugins = ["tests.helpers.training_fixtures"]


@pytest.fixture(scope="module")
def inside(phantom, tmp_path_factory):
    """A checkpoint in the middle of an epoch: every part holds something."""
    folder = tmp_path_factory.mktemp("inside") / "run"
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch, training(phantom, folder, **EVERY_STEP), 5)
    content = load(folder / "checkpoint.pth")
    assert content["collected"]
    assert content["best"]
    yield {**content, "operating_point": {"rule": "youden", "target": 0.9, "threshold": 0.1}}
    shutil.rmtree(folder)


# Each variation is tried in three or four uses: CI tries one in four of them, ALL_VARIATIONS=1 all.
EVERY = 1 if os.environ.get("ALL_VARIATIONS") else 4
PRETRAINS = ("model", "ema", "category_", "epoch", "all of", "one of", "config=")  # what a new training looks at


def uses(path, data, room, label):
    """What a checkpoint is for, each with a folder of its own."""
    image = first_image(data)
    yield "predict", predict, ["--checkpoint", path, image, "--output_dir", room / "p", "--draw", "none"]
    plain = ["--device", "cpu", "--options", "bootstrap_draws=0", "num_workers=0"]
    yield "evaluate", call, ["--eval", "--resume", path, "--data_path", data, "--output_dir", room / "e", *plain]
    more = {"bootstrap_draws": 0, **EVERY_STEP}
    yield "resume", call, training(data, room / "r", "--resume", path, **more)
    if label.startswith(PRETRAINS):
        yield "pretrain", call, training(data, room / "t", "--pretrain_model_path", path, **ONE_EPOCH, **more)


def endings(label, content, data, room):
    """(use, code or what was raised, text) of each use."""
    path = room / "c.pth"
    torch.save(content, path)
    for use, run, arguments in uses(path, data, room, label):
        try:
            outcome = run(*arguments)
        except Exception as error:  # noqa: BLE001 what these tests are for
            yield use, type(error).__name__, str(error)
        else:
            yield use, outcome.code, outcome.err
    for folder in "pert":
        shutil.rmtree(room / folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variations", "at_least"), [(by_part, 250), (by_tensor, 60), (by_entry, 90), (by_chance, 100)]
)
def test_no_wrong_part_ends_in_a_traceback(inside, phantom, room, variations, at_least):
    bad, tried, refused = [], 0, 0
    for label, content in islice(variations(inside), 0, None, EVERY):
        tried += 1
        for use, code, text in endings(label, content, phantom, room):
            refused += code == 2
            if code not in (0, 2) or "Traceback" in text:
                bad.append(f"{label}: {use}: {code}: {text[-200:]}")
    assert tried >= at_least // EVERY
    assert refused >= at_least // EVERY
    assert not bad
