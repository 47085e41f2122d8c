"""Checkpoints with one part that is not what it should be: every use ends well or with one message, never otherwise."""

import shutil

import pytest
import torch
from end_to_end import call, first_image, load, training
from hostile_checkpoints import by_chance, by_entry, by_part, by_tensor
from predict_calls import predict
from test_resume import EVERY_STEP, cut_off

pytest_plugins = ["end_to_end_fixtures"]


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


def uses(path, data, room):
    """What a checkpoint is for, each with a folder of its own."""
    yield (
        "predict",
        lambda: predict(
            "--checkpoint", path, first_image(data), "--output_dir", room / "p", "--device", "cpu", "--draw", "none"
        ),
    )
    plain = ["--options", "bootstrap_draws=0", "num_workers=0"]
    yield (
        "evaluate",
        lambda: call(
            "--eval", "--resume", path, "--data_path", data, "--output_dir", room / "e", "--device", "cpu", *plain
        ),
    )
    yield "resume", lambda: call(*training(data, room / "r", "--resume", path, **EVERY_STEP, bootstrap_draws=0))
    yield (
        "pretrain",
        lambda: call(
            *training(data, room / "t", "--pretrain_model_path", path, epochs=1, lr_drop=[], bootstrap_draws=0)
        ),
    )


def outcomes(content, data, room):
    """(use, code or what was raised, text) of each use."""
    path = room / "c.pth"
    torch.save(content, path)
    for use, run in uses(path, data, room):
        try:
            outcome = run()
        except Exception as error:  # noqa: BLE001 what a test of them is for
            yield use, type(error).__name__, str(error)
        else:
            yield use, outcome.code, outcome.err
    for folder in "pert":
        shutil.rmtree(room / folder, ignore_errors=True)


@pytest.mark.slow
def test_no_wrong_part_ends_in_a_traceback(inside, phantom, room):
    bad, count, refused = [], 0, 0
    variations = [*by_part(inside), *by_tensor(inside), *by_entry(inside), *by_chance(inside, 150)]
    for label, content in variations:
        for use, code, text in outcomes(content, phantom, room):
            count, refused = count + 1, refused + (code == 2)
            if code not in (0, 2) or "Traceback" in text:
                bad.append((label, use, code, text))
    assert len(variations) >= 400
    assert refused > 400
    assert not bad, f"{len(bad)} of {count}: {bad[:10]}"
