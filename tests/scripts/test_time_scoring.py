import sys

import pytest

from scripts.measure import time_scoring
from util.distributed.exit_codes import run_to_exit_code


@pytest.mark.parametrize("categories", [1, 3])
def test_figures_are_timed_and_compared_with_those_of_pycocotools(monkeypatch, capsys, categories):
    sizes = ["--num_images", "40", "--num_detections", "30", "--with_boxes", "0.5", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["time_scoring.py", *sizes, "--num_categories", str(categories)])
    assert run_to_exit_code(time_scoring.main) == 0
    told = capsys.readouterr().out
    assert "40 images x 30 detections, " in told
    assert "largest difference of the 12 metrics: " in told


def test_figures_that_differ_are_a_failure(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["time_scoring.py", "--num_images", "20", "--num_detections", "20", "--repeats", "1"]
    )
    monkeypatch.setattr(time_scoring, "coco_ap", lambda *_: {"AP": 0.5})
    assert run_to_exit_code(time_scoring.main) == 1
