"""scripts/plot_evaluation.py and scripts/show_detections.py: the plots of one evaluation, and of nothing else."""

import gzip
import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from datasets.annotations.split import load_split
from tests.helpers.training import annotations, call_apart, copy_run, load_script
from util.base.errors import UserError
from util.metrics.report.evaluation import evaluate_tables
from util.metrics.tables import Detections
from util.runlog.run_log import RunLog
from util.training.evaluation import write_evaluation

pytest_plugins = ["tests.helpers.training_fixtures"]
PLOT, SHOW = load_script("plot_evaluation"), load_script("show_detections")
POINT = {"rule": "youden", "target": 0.9, "threshold": 0.5}


def boxes_of(found):
    """(image, box, score) rows as a table of detections."""
    image, box, score = (np.array(column) for column in zip(*found, strict=True))
    return image, np.ones(len(image), dtype=np.int64), box.astype(np.float32).astype(float), score


@pytest.fixture
def evaluated(trained, phantom, tmp_path):
    """An evaluation with chosen detections: (its folder, images with boxes, images without)."""
    truth = load_split(phantom, annotations(phantom, "val")).ground_truth()
    positive = np.unique(truth.image_id).tolist()
    negative = [image for image in truth.images if image not in positive]
    first = {image: truth.xyxy[truth.image_id == image][0] for image in positive}
    away = [2, 2, 12, 12]
    rows = [(positive[0], first[positive[0]], 0.3), (positive[1], first[positive[1]], 0.9), (positive[1], away, 0.6)]
    rows += [(positive[2], away, 0.2), (negative[0], away, 0.7), (negative[1], away, 0.4)]
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained / "config.py", folder)
    evaluation = evaluate_tables(
        truth, Detections(truth.images, *boxes_of(rows)), {}, rule="youden", target=0.9, operating_point=POINT
    )
    source = {"list": "TBX11K_val", "checkpoint": "best.pth"}
    write_evaluation(evaluation, RunLog(folder), folder, source, epoch=1, step=3, labels={"weights": "ema"})
    return folder, truth, positive, negative


def captions(figure):
    """Caption by file name."""
    titles = [axes.get_title(loc="left").split("\n") for axes in figure.axes if axes.get_title(loc="left")]
    return dict(titles)


def counted(folder, image):
    """What per_image.csv counts on an image, in the words of a caption."""
    lines = [line.split(",") for line in (folder / "per_image.csv").read_text().splitlines()]
    row = dict(zip(lines[0], next(line for line in lines[1:] if line[0] == str(image)), strict=True))
    text = f"{row['boxes']} GT, {row['detections']} prediction" + "s" * (row["detections"] != "1")
    return text + (f", {row['hits']} TP" if int(row["boxes"]) else "")


def sheets(folder, phantom):
    study = PLOT.load_study(folder, None, None)
    args = Namespace(run=folder, data_path=phantom, num_images=8, bootstrap=0, seed=0)
    return {name: figure for name, figure in PLOT.plots(study, args) if name.startswith("worst")}


def test_captions_count_at_the_threshold_at_which_boxes_are_drawn(evaluated, phantom):
    folder, truth, positive, negative = evaluated
    drawn = sheets(folder, phantom)
    for figure in drawn.values():
        for image, name in truth.files.items():
            if (caption := captions(figure).get(name)) is not None:
                assert caption == counted(folder, image)
        assert "0.5" in figure.get_suptitle()
    weak, alarm = truth.files[positive[0]], truth.files[negative[0]]
    assert captions(drawn["worst_misses"])[weak].endswith("0 predictions, 0 TP"), "its only detection has 0.3"
    assert captions(drawn["worst_false_alarms"]).keys() == {alarm, truth.files[positive[1]]}, "only from 0.5 on"


def test_what_lies_below_the_threshold_is_drawn_otherwise_and_the_legend_says_so(evaluated, phantom):
    folder, truth, positive, _ = evaluated
    figure = sheets(folder, phantom)["worst_misses"]
    dashes = {}
    for axes in figure.axes:
        name = axes.get_title(loc="left").split("\n")[0]
        dashes[name] = [str(patch.get_linestyle()) for patch in axes.patches]
    [legend] = figure.legends
    assert "best detection, below the score threshold" in [text.get_text() for text in legend.get_texts()]
    assert len(set(dashes[truth.files[positive[0]]])) == 2
    assert dashes[truth.files[positive[0]]][-1] != str((0, (4, 2)))


def test_without_an_operating_point_choice_and_count_are_at_the_threshold_drawn(evaluated, phantom):
    folder, truth, positive, _ = evaluated
    report = json.loads((folder / "report.json").read_text())
    report.pop("operating_point/threshold")
    (folder / "report.json").write_text(json.dumps(report))
    drawn = sheets(folder, phantom)
    assert captions(drawn["worst_misses"]).get(truth.files[positive[0]], "1 TP").endswith("1 TP"), "found from 0.3 on"
    assert truth.files[positive[2]] in captions(drawn["worst_misses"])


def test_the_sheet_of_a_run_counts_at_its_threshold(evaluated, phantom, monkeypatch):
    folder, truth, positive, _ = evaluated
    figures = []
    draw = SHOW.draw_sheet
    monkeypatch.setattr(SHOW, "draw_sheet", lambda *args: figures.append(draw(*args)) or figures[-1])
    SHOW.draw(folder, phantom, 6, None, folder / "detections.png")
    told = captions(figures[0])
    assert told == {truth.files[image]: counted(folder, image) for image in truth.images}
    SHOW.draw(folder, phantom, 6, 0.25, folder / "detections.png")
    assert captions(figures[1])[truth.files[positive[0]]].endswith("1 prediction, 1 TP")
    assert "0.25" in figures[1].get_suptitle()


@pytest.mark.parametrize("name", ["detections.json.gz", "truth.json.gz"])
def test_tables_of_another_evaluation_are_not_drawn_with_this_report(evaluated, trained, phantom, name):
    folder, *_ = evaluated
    changed = json.loads(annotations(phantom, "val").read_text())
    changed["annotations"][0]["bbox"][0] += 1
    is_truth = name == "truth.json.gz"
    other = gzip.compress(json.dumps(changed).encode()) if is_truth else (trained / name).read_bytes()
    (folder / name).write_bytes(other)
    with pytest.raises(UserError, match=rf"{name}: .*was replaced or changed; evaluate the run again"):
        PLOT.load_study(folder, None, None)


def test_other_images_than_those_of_the_report_are_not_drawn(evaluated, data):
    folder, *_ = evaluated
    changed = json.loads(annotations(data, "val").read_text())
    changed["annotations"].pop()
    annotations(data, "val").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"TBX11K_val\.json: is not the ground truth whose metrics"):
        SHOW.draw(folder, data, 6, None, folder / "detections.png")
    assert not (folder / "detections.png").exists()


@pytest.mark.slow
def test_plot_evaluation_draws_every_figure(evaluated, phantom, tmp_path):
    command = ["scripts/plot_evaluation.py", evaluated[0], "--data_path", phantom, "--bootstrap", 10, "--num_images", 2]
    tmp_path = tmp_path / "plots"
    outcome = call_apart(*command, "--output_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert {"froc", "precision_recall", "roc", "scores", "calibration", "worst_false_alarms", "worst_misses"} <= names
    assert names == {path.stem for path in tmp_path.glob("*.svg")}
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 600
    assert call_apart("scripts/plot_evaluation.py", tmp_path).code == 2


@pytest.mark.slow
def test_no_other_x_rays_are_drawn_than_those_that_were_evaluated(trained, phantom, tmp_path):
    run = copy_run(trained, tmp_path / "run")
    config = (run / "config.py").read_text()
    (run / "config.py").write_text(config.replace("val_list = 'TBX11K_val'", "val_list = 'TBX11K_train'"))
    outcome = call_apart("scripts/plot_evaluation.py", run, "--data_path", phantom)
    assert outcome.code == 2, outcome.out
    assert "is not the list that was evaluated: " in outcome.err
