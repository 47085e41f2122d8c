"""What scripts/predict.py puts into a batch, and into memory."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.predict import PIXELS, lines
from tests.helpers.training import ROOT
from util.detection.batch import collate
from util.metrics.files import load_detections
from util.predict.outputs import PROGRESS_FILE

pytest_plugins = ["tests.helpers.training_fixtures", "tests.helpers.predict_fixtures"]


@pytest.mark.slow
def test_the_batch_leaves_no_trace(run, tmp_path, phantom):
    found = []
    for size in (1, 3, 100):
        run(phantom / "imgs", "--batch_size", size, "--draw", "none")
        found.append(load_detections(tmp_path / "out/detections.json", range(1, 24)))
        shutil.rmtree(tmp_path / "out")
    for other in found[1:]:
        np.testing.assert_array_equal(other.image_id, found[0].image_id)
        np.testing.assert_allclose(other.score, found[0].score, atol=1e-5)


@pytest.mark.slow
def test_images_of_several_sizes_are_never_padded(run, tmp_path, monkeypatch):
    room = tmp_path / "in"
    room.mkdir()
    for number in range(12):
        Image.fromarray(PIXELS).resize((50 + 10 * (number % 3), 40)).save(room / f"{number}.png")
    monkeypatch.setattr("models.inference.detector.collate", alone := Alone())
    assert run(room, "--batch_size", 2).code == 0
    assert alone.sizes == {1, 2} or alone.sizes == {2}
    assert len(lines(tmp_path / "out/images.csv")) == 12


class Alone:
    """`collate` for images of one size only."""

    def __init__(self):
        self.sizes = set()

    def __call__(self, samples):
        assert len({sample.image.shape for sample in samples}) == 1
        self.sizes.add(len(samples))
        return collate(samples)


@pytest.mark.slow
def test_a_gpu_without_room_takes_the_batch_in_halves(run, phantom, monkeypatch):
    from models.inference.detector import TrainedNetwork

    answer, sizes = TrainedNetwork.__call__, []

    def small(self, batch):
        sizes.append(len(batch.targets))
        if len(batch.targets) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, batch)

    monkeypatch.setattr(TrainedNetwork, "__call__", small)
    outcome = run(phantom / "imgs/tb", "--batch_size", 4)
    assert outcome.code == 0, outcome.err
    assert 4 in sizes
    assert "trying halves" in outcome.err


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_images(trained, phantom, tmp_path):
    (tmp_path / "in").mkdir()
    images = sorted((phantom / "imgs").rglob("*.png"))
    for number in range(1000):
        (tmp_path / "in" / f"{number:04d}.png").write_bytes(images[number % len(images)].read_bytes())
    where = [str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    job = subprocess.Popen(
        [sys.executable, "scripts/predict.py", "--checkpoint", str(trained / "checkpoint.pth"), *where],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    seen = []
    while job.poll() is None:
        rows = tmp_path / "out" / PROGRESS_FILE
        resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{job.pid}/status").read_text())
        if rows.exists() and resident:
            seen.append((rows.read_bytes().count(b"\n") - 1, int(resident[1]) / 1024))
        time.sleep(0.1)
    assert job.returncode == 0
    images, resident = np.array([point for point in seen if point[0] > 150]).T
    assert len(images) > 20
    slope = np.polyfit(images, resident, 1)[0]  # MiB per image
    assert abs(slope) * 1000 < 40, f"{slope * 1000:.1f} MiB per 1000 images"
