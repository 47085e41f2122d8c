"""scripts/predict.py goes on where it was, and only there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.predict import PIXELS, files_of, lines, predict
from tests.helpers.training import ROOT, call_apart
from util.base.folder_lock import hold
from util.predict.outputs import FILE
from util.training.checkpoints.checkpoint import load, save

pytest_plugins = ["tests.helpers.training_fixtures", "tests.helpers.predict_fixtures"]


def test_a_second_start_changes_nothing_and_predicts_nothing(run, tmp_path, phantom, monkeypatch):
    run(phantom / "imgs/tb")
    before = files_of(tmp_path / "out")
    monkeypatch.setattr("models.inference.detector.TrainedNetwork.__call__", None)
    outcome = run(phantom / "imgs/tb")
    assert outcome.code == 0, outcome.err
    assert files_of(tmp_path / "out") == before


@pytest.mark.slow
def test_an_image_that_has_changed_is_predicted_again(run, tmp_path, phantom):
    room = tmp_path / "in"
    shutil.copytree(phantom / "imgs/tb", room)
    run(room)
    before = {line["file_name"]: line["tb_score"] for line in lines(tmp_path / "out/images.csv")}
    name = sorted(before)[0]
    Image.fromarray(PIXELS).save(room / name)
    assert run(room).code == 0
    after = {line["file_name"]: line["tb_score"] for line in lines(tmp_path / "out/images.csv")}
    assert {n for n in after if after[n] != before[n]} == {name}


@pytest.mark.parametrize(
    ("more", "phrase"),
    [
        (["--threshold", 0.9], "score"),
        pytest.param(["--draw", "all"], "draw 'positives' instead of 'all'", marks=pytest.mark.slow),
        pytest.param(["--flip"], "flip False instead of True", marks=pytest.mark.slow),
        pytest.param(["--scales", 64], "scales [] instead of [64]", marks=pytest.mark.slow),
        pytest.param(["--options", "num_select=5"], "options", marks=pytest.mark.slow),
    ],
)
def test_another_prediction_does_not_go_on_with_the_rows(run, tmp_path, phantom, more, phrase):
    run(phantom / "imgs/tb")
    before = files_of(tmp_path / "out")
    outcome = run(phantom / "imgs/tb", *more)
    assert outcome.code == 2
    assert phrase in outcome.err
    assert "choose another --output_dir" in outcome.err
    assert files_of(tmp_path / "out") == before


@pytest.mark.slow
def test_neither_does_another_checkpoint_of_the_same_name(trained, tmp_path, phantom):
    shutil.copy(trained / "checkpoint.pth", tmp_path / "c.pth")
    command = ["--checkpoint", tmp_path / "c.pth", phantom / "imgs/tb", "--output_dir", tmp_path / "out"]
    assert predict(*command).code == 0
    save(tmp_path / "c.pth", {**load(trained / "checkpoint.pth"), "epoch": 99})
    outcome = predict(*command)
    assert outcome.code == 2
    assert "checkpoint" in outcome.err


@pytest.mark.parametrize("name", ["pictures/theirs.png", "images.csv", "detections.json", "summary.html"])
def test_files_of_somebody_else_are_left_alone(run, tmp_path, phantom, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("precious")
    outcome = run(phantom / "imgs/tb")
    assert outcome.code == 2
    assert f"has {name.split('/')[0]} and no {FILE}, so it is not of an earlier prediction" in outcome.err
    assert files_of(tmp_path / "out") == {name: b"precious"}


def test_a_second_prediction_into_the_same_folder_is_refused_while_the_first_writes(run, tmp_path, phantom):
    image = next((phantom / "imgs/tb").iterdir())
    with hold(tmp_path / "out", "prediction"):
        outcome = run(image)
        assert outcome.code == 2
        assert "another prediction is writing there" in outcome.err
    assert run(image).code == 0


@pytest.mark.slow
def test_a_killed_prediction_goes_on_and_ends_as_if_nothing_had_happened(trained, phantom, tmp_path):
    room = tmp_path / "in"
    room.mkdir()
    images = sorted((phantom / "imgs").rglob("*.png"))
    for number in range(120):
        shutil.copy(images[number % len(images)], room / f"{number:03d}.png")

    def command(out):
        where = ["--output_dir", str(tmp_path / out), "--device", "cpu", "--draw", "all", "--batch_size", "4"]
        return [
            sys.executable,
            "scripts/predict.py",
            "--checkpoint",
            str(trained / "checkpoint.pth"),
            str(room),
            *where,
        ]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command("killed"), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    rows, end = tmp_path / "killed" / FILE, time.monotonic() + 60
    while time.monotonic() < end and (not rows.exists() or rows.read_bytes().count(b"\n") < 20):
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = rows.read_bytes().count(b"\n") - 1
    assert 0 < done < 120
    again = call_apart(*command("killed")[1:])
    assert again.code == 0, again.err
    assert f"{done} of 120 images are done already" in again.out
    assert call_apart(*command("whole")[1:]).code == 0
    ours, theirs = files_of(tmp_path / "killed"), files_of(tmp_path / "whole")
    ours = {name: content for name, content in ours.items() if not Path(name).name.startswith(".")}
    assert ours.keys() == theirs.keys()
    tables = [lines(tmp_path / out / "images.csv") for out in ("killed", "whole")]
    for one, other in zip(*tables, strict=True):
        assert float(one.pop("tb_score")) == pytest.approx(float(other.pop("tb_score")), abs=1e-5)  # other batches
        assert one == other
