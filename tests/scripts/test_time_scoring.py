import sys

import pytest

from scripts.measure import time_scoring


@pytest.mark.parametrize("categories", [1, 3])
def test_figures_are_timed_and_compared_with_those_of_pycocotools(monkeypatch, capsys, categories):
    sizes = ["--images", "40", "--detections", "30", "--with_boxes", "0.5", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["time_scoring.py", *sizes, "--categories", str(categories)])
    assert time_scoring.main() == 0
    told = capsys.readouterr().out
    assert "40 images x 30 detections, " in told
    assert "largest difference of the 12 metrics: " in told


def test_figures_that_differ_are_a_failure(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["time_scoring.py", "--images", "20", "--detections", "20", "--rounds", "1"])
    monkeypatch.setattr(time_scoring, "coco_ap", lambda *_: {"AP": 0.5})
    assert time_scoring.main() == 1
