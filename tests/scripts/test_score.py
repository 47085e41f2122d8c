"""scripts/score.py and scripts/make_submission.py, as a user runs them."""

import copy
import gzip
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.metric_tables import report
from tests.helpers.training import call, call_apart, metrics, torchrun, training
from util.base.memory import peak_resident_bytes
from util.metrics.tables import Detections, GroundTruth

pytest_plugins = ["tests.helpers.training_fixtures"]
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
IMAGES = {1: "tb/a.png", 2: "tb/b.png", 3: "health/c.png", 4: "sick/d.png"}
TRUTH = {
    "images": [{"id": i, "file_name": name, "width": 512, "height": 512} for i, name in IMAGES.items()],
    "categories": [{"id": 1, "name": "ActiveTuberculosis"}, {"id": 2, "name": "ObsoletePulmonaryTuberculosis"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "area": 10000, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50, 50, 120, 100], "area": 12000, "iscrowd": 0},
    ],
}
HIT = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "score": 0.9}
OTHER = {"image_id": 2, "category_id": 1, "bbox": [50, 50, 120, 100], "score": 0.8}
ALARM = {"image_id": 4, "category_id": 1, "bbox": [300, 300, 50, 50], "score": 0.7}
FOUND = [HIT, OTHER, ALARM]


def scored(folder, found=FOUND, *more, truth=TRUTH):
    """(outcome, report or None) of a call."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(found if isinstance(found, str) else json.dumps(found))
    files = ["--detections", folder / "found.json", "--truth", folder / "truth.json", "--output", folder / "R.json"]
    outcome = call_apart("scripts/score.py", *files, *more)
    if outcome.code:
        return outcome, None
    values = json.loads((folder / "R.json").read_text())
    assert values.pop("evaluated")["annotation_file"] == str(folder / "truth.json")
    return outcome, values


def test_a_report_has_flat_keys_that_other_tools_rely_on(tmp_path):
    outcome, values = scored(tmp_path, FOUND, "--bootstrap", 50)
    assert outcome.code == 0, outcome.err
    assert values["all/per_class/ActiveTuberculosis/AP"] == pytest.approx(1.0)
    assert values["all/per_class/AP"] == pytest.approx(0.5)
    assert values["tb_only/agnostic/AP50"] == pytest.approx(1.0)
    assert values["tb_only/agnostic/froc@0.5"] == values["tb_only/agnostic/froc_mean"] == 1.0
    assert values["all/image/auc"] == 1.0
    assert values["all/image/auc/ci95"] == [1.0, 1.0]
    low, high = values["all/per_class/AP/ci95"]
    assert 0 <= low <= 0.5 <= high <= 1
    assert "image level" in outcome.out


def test_without_an_output_the_metrics_are_printed_alone_on_any_terminal(tmp_path):
    categories = [{"id": 1, "name": "\u7ed3\u6838"}, {"id": 2, "name": "background"}]
    (tmp_path / "truth.json").write_text(json.dumps({**TRUTH, "categories": categories}))
    (tmp_path / "found.json").write_text(json.dumps([{**row, "image_id": IMAGES[row["image_id"]]} for row in FOUND]))
    files = ["--detections", tmp_path / "found.json", "--truth", tmp_path / "truth.json"]
    outcome = call_apart("scripts/score.py", *files, env={"PYTHONIOENCODING": "ascii"})
    assert outcome.code == 0, outcome.err
    assert "3 of 3 rows were joined with their images by file name" in outcome.err
    assert "\\u7ed3\\u6838" in outcome.out
    assert "background (2)" in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "truth.json"]


@pytest.mark.slow
def test_images_that_were_not_evaluated_are_in_no_denominator(tmp_path):
    rows = [HIT, {**ALARM, "image_id": 2, "score": 0.95}, OTHER]
    assert scored(tmp_path, rows)[1]["all/agnostic/froc@0.25"] == 1.0  # one alarm on four images
    outcome, values = scored(tmp_path, rows, "--images", "tb")
    assert values["all/agnostic/froc@0.25"] == 0.0  # on two
    assert "all/image/auc" not in values
    assert "warning" not in outcome.err
    (tmp_path / "list.txt").write_text("tb/a.png\n4\n")
    values = scored(tmp_path, rows, "--images", tmp_path / "list.txt")[1]
    assert (values["all/agnostic/AP"], values["all/image/auc"]) == (pytest.approx(1.0), 1.0)
    (tmp_path / "list.txt").write_text("tb/a.png\nsick/nowhere.png\n")
    outcome, _ = scored(tmp_path, rows, "--images", tmp_path / "list.txt")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "1 entries are not in the ground truth: sick/nowhere.png" in outcome.err


@pytest.mark.slow
def test_the_flags_that_people_know_choose_views(tmp_path):
    everything = scored(tmp_path)[1]
    tb = scored(tmp_path, FOUND, "--tb_only_eval")[1]
    both = scored(tmp_path, FOUND, "--tb_only_eval", "--class_agnostic_tb")[1]
    assert tb == {k: v for k, v in everything.items() if k.startswith("tb_only/")}
    assert both == {k: v for k, v in tb.items() if "per_class" not in k}
    assert "tb_only/agnostic/AP50" in both


@pytest.mark.slow
def test_no_detection_and_no_truth_have_defined_reports(tmp_path):
    outcome, values = scored(tmp_path, [])
    assert "4 of 4 images have no detection; they count as evaluated" in outcome.err
    assert values["all/agnostic/AP"] == values["all/per_class/froc_mean"] == 0.0
    assert values["all/image/auc"] == 0.5
    blank = copy.deepcopy({**TRUTH, "annotations": []})
    values = scored(tmp_path, FOUND, truth=blank)[1]
    assert not [key for key in values if "AP" in key or "froc" in key]
    assert values["all/image/auc"] == 1.0  # the folders still say which images show tuberculosis
    for image in blank["images"]:
        image["file_name"] = image["file_name"].replace("/", "_")
    assert scored(tmp_path, FOUND, truth=blank)[1] == {}


@pytest.mark.parametrize(
    ("found", "phrase"),
    [
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "finite number, got nan"),
        ([{**HIT, "image_id": 77}], "image_id 77 is none of the 4 images"),
        ([{**HIT, "bbox": ["10", "10", "100", "100"]}], "bbox must be four finite numbers"),
        ([HIT, HIT], "was the file written twice?"),
        ("{}", "expected a list of detections"),
        ("[{", "cannot be read as JSON"),
    ],
)
def test_what_is_no_detection_is_one_clear_error(tmp_path, found, phrase):
    outcome, _ = scored(tmp_path, found)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert outcome.err.startswith(f"error: {tmp_path / 'found.json'}: ")
    assert phrase in outcome.err
    assert not (tmp_path / "R.json").exists()


@pytest.mark.slow
def test_categories_that_the_truth_does_not_list_are_left_out_with_a_warning(tmp_path):
    outcome, values = scored(tmp_path, [*FOUND, {**ALARM, "category_id": 9, "score": 0.99}])
    assert "categories 9 are not in the ground truth" in outcome.err
    assert values == scored(tmp_path, FOUND)[1]


def test_two_runs_are_compared_on_the_same_draws(trained, tmp_path):
    command = ["scripts/score.py", "--compare", trained, trained, "--bootstrap", 20, "--output", tmp_path / "C.json"]
    outcome = call_apart(*command)
    assert outcome.code == 0, outcome.err
    values = json.loads((tmp_path / "C.json").read_text())
    assert values["all/agnostic/AP/difference"] == 0.0
    assert values["all/agnostic/AP/difference/ci95"] == [0.0, 0.0]
    assert values["all/agnostic/AP/difference/p"] == 1.0
    assert values["all/agnostic/AP/A"] == values["all/agnostic/AP/B"] == metrics(trained)["all/agnostic/AP"]
    assert outcome.out.splitlines()[3].split() == ["A", "B", "B", "-", "A", "95", "%", "interval", "p"]
    assert "all/agnostic/AP50" in outcome.out


def test_a_run_is_scored_again_from_its_own_files(trained, tmp_path):
    said = json.loads((trained / "report.json").read_text())
    facts = said.pop("evaluated")
    files = ["--detections", trained / "detections.json.gz", "--truth", trained / "truth.json.gz"]
    more = ["--bootstrap", 1000, "--seed", 42, "--output", tmp_path / "R.json"]
    assert call_apart("scripts/score.py", *files, *more).code == 0
    again = json.loads((tmp_path / "R.json").read_text())
    of_tables = ("images", "images_with_boxes", "boxes", "boxes_by_category", "ground_truth", "detections")
    ours = again.pop("evaluated")
    assert again == said
    assert {name: ours[name] for name in of_tables} == {name: facts[name] for name in of_tables}
    assert ours["detections_file"] == str(trained / "detections.json.gz")


@pytest.mark.slow
def test_the_challenge_gets_both_files(trained, phantom, tmp_path):
    script, where = "scripts/make_submission.py", ["--data_path", phantom]
    outcome = call_apart(script, trained, *where, "--threshold", 0.4)
    assert outcome.code == 2
    assert "Evaluate with --options val_list=all_test" in outcome.err
    checkpoint = ["--resume", trained / "checkpoint.pth", "--output_dir", tmp_path / "test"]
    done = call("--eval", *checkpoint, *where, "--options", "val_list=all_test")
    assert done.code == 0, done.err
    outcome = call_apart(script, tmp_path / "test", *where, "--threshold", 0.4)
    assert outcome.code == 0, outcome.err
    assert "p_healthy = p_sick" in outcome.err
    images = json.loads((phantom / "annotations/json/all_test.json").read_text())["images"]
    lines = (tmp_path / "test/submission/classification.txt").read_text().splitlines()
    assert len(lines) == len(images)
    assert all(abs(sum(map(float, line.split())) - 1) < 1e-5 for line in lines)


@pytest.mark.slow
def test_two_ranks_leave_the_report_of_one_byte_for_byte(trained, phantom, tmp_path):
    """With the recipe's eval_batch_size of 1: images that share a forward pass change each other's last digits."""
    arguments = ["--eval", "--resume", trained / "checkpoint.pth", "--data_path", phantom, "--device", "cpu"]
    arguments += ["--options", "eval_batch_size=1"]
    for ranks in (1, 2):
        outcome = torchrun(ranks, *arguments, "--output_dir", tmp_path / str(ranks))
        assert outcome.code == 0, outcome.err
    for name in ("report.json", "detections.json.gz", "truth.json.gz", "per_image.csv"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_the_operating_point_of_the_checkpoint_is_the_one_used(phantom, tmp_path):
    rule = ["operating_rule=sensitivity", "operating_target=1.0"]
    done = call(*training(phantom, tmp_path / "run", epochs=1, lr_drop=[]), "--options", *rule)
    assert done.code == 0, done.err
    said = metrics(tmp_path / "run")
    again = [
        "--eval",
        "--resume",
        tmp_path / "run/checkpoint.pth",
        "--data_path",
        phantom,
        "--output_dir",
        tmp_path / "again",
    ]
    outcome = call(*again, "--options", "operating_rule=youden")
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "again") == said
    report = json.loads((tmp_path / "again/report.json").read_text())
    assert report["evaluated"]["operating_point"]["origin"] == "checkpoint"
    assert "chosen before, on validation images" in outcome.out


def crowded_tables(images, detections):
    """As many images as TBX11K has, one in nine with a box or two, and detections near boxes and anywhere."""
    rng = np.random.default_rng(0)
    ids = tuple(range(1, images + 1))
    of_box = np.repeat(np.arange(1, images // 9 + 1), rng.integers(1, 3, images // 9))
    size, corner = np.exp(rng.normal(4.7, 0.35, (len(of_box), 2))), rng.uniform(0, 350, (len(of_box), 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    labels = rng.choice([1, 2], len(of_box), p=[0.8, 0.2])
    truth = GroundTruth(
        ids, of_box, labels, boxes, size.prod(axis=1), np.zeros(len(of_box), bool), {1: "a", 2: "b"}, {}, {}
    )
    of_found = np.repeat(np.array(ids), detections)
    corner = rng.uniform(0, 350, (len(of_found), 2))
    xyxy = np.concatenate([corner, corner + np.exp(rng.normal(4.7, 0.35, corner.shape))], axis=1)
    near = (of_found <= images // 9) & (rng.random(len(of_found)) < 0.3)
    first = np.searchsorted(of_box, of_found[near])
    xyxy[near] = boxes[first] + rng.uniform(-15, 15, (near.sum(), 4))
    score = rng.beta(0.3, 4, len(of_found))
    score[near] = rng.beta(1, 3, near.sum())
    return truth, Detections(ids, of_found, rng.integers(1, 3, len(of_found)), xyxy, score)


def score_crowded_tables(images, detections):
    """(seconds without and with intervals, peak memory in bytes); for a process of its own."""
    truth, found = crowded_tables(images, detections)
    kinds = {i: "healthy" if i % 2 else "sick" for i in range(images // 9 + 1, images + 1)}
    seconds = []
    for draws in (0, 1000):
        start = time.monotonic()
        values = report(truth, found, kinds=kinds, threshold=0.5, draws=draws)
        seconds.append(time.monotonic() - start)
        assert 0 < values["all/agnostic/AP50"] < 1
    return seconds, peak_resident_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("images", "detections", "limits"), [(1800, 300, (30, 90)), (20_000, 30, (120, 300))])
def test_a_large_set_is_scored_in_time_and_memory(images, detections, limits):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(score_crowded_tables, (images, detections))
    assert seconds[0] < limits[0]
    assert seconds[1] < limits[1]
    assert peak < 3e9


@pytest.mark.data
def test_the_real_predictions_score_as_stated(tmp_path):
    predictions, truth = (
        SHARED / "eval/predictions_tb200_top100.json.gz",
        SHARED / "tbx11k/annotations/json/TBX11K_val.json",
    )
    expected = SHARED / "eval/expected_top100.json"
    if not (predictions.is_file() and truth.is_file() and expected.is_file()):
        pytest.skip("the real annotations and predictions are not beside the repository")
    files = ["--detections", predictions, "--truth", truth, "--output", tmp_path / "R.json", "--images", "tb"]
    assert call_apart("scripts/score.py", *files).code == 0
    values, stated = json.loads((tmp_path / "R.json").read_text()), json.loads(expected.read_text())
    assert len(json.loads(gzip.decompress(predictions.read_bytes()))) == 20_000
    keys = {"AR_max1": "AR1", "AR_max10": "AR10", "AR_max100": "AR100"}
    parts = {"per_class": stated["coco"]["three_categories_200_tb_images"]}
    parts |= {"agnostic": stated["coco"]["class_agnostic_200_tb_images"]}
    parts |= {f"per_class/{name}": figures for name, figures in stated["coco"]["per_category"].items()}
    for view in ("all", "tb_only"):
        for measure, figures in parts.items():
            for key, value in figures.items():
                if not key.startswith(("A",)):
                    continue
                ours = values.get(f"{view}/{measure}/{keys.get(key, key)}", -1.0)
                assert ours == pytest.approx(value, abs=1e-9), (view, measure, key)


def test_scoring_needs_no_torch():
    """Its import alone takes longer than the scoring of a small set."""
    outcome = call_apart(
        "-c", "import sys; sys.path.insert(0, 'scripts'); import score; assert 'torch' not in sys.modules"
    )
    assert outcome.code == 0, outcome.err


def changed_truth(**changes):
    """The truth with another first box, or other lists."""
    box = {**TRUTH["annotations"][0], **changes.pop("box", {})}
    return {**TRUTH, "annotations": [box, *TRUTH["annotations"][1:]], **changes}


NAN = float("nan")
SAME_NAMES = [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]
MISTAKES = {
    "a box that is no number": (
        changed_truth(box={"bbox": [1, 2, NAN, 4]}),
        (),
        "not finite or have a negative side, first on",
    ),
    "a negative width": (changed_truth(box={"bbox": [30, 30, -20, 20]}), (), "first on tb/a.png: [30.0, 30.0, -20.0"),
    "two categories of one name": (changed_truth(categories=SAME_NAMES), (), "a category name occurs more than once"),
    "a threshold": (TRUTH, ("--threshold", "nan"), "--threshold must be a finite number"),
    "a seed": (TRUTH, ("--seed", -1), "--seed must be at least 0"),
    "a sensitivity": (TRUTH, ("--operating_rule", "sensitivity", "--operating_target", 5), "must lie in (0, 1]"),
    "a rate": (TRUTH, ("--operating_rule", "false_alarms", "--operating_target", "nan"), "must be a number from 0 on"),
    "an output": (TRUTH, ("--output", "."), "is not a file name"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_error(tmp_path, case):
    truth, more, phrase = MISTAKES[case]
    outcome, _ = scored(tmp_path, FOUND, *more, truth=truth)
    assert outcome.code == 2, outcome.out
    assert phrase in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"[1, 2", b"\x1f\x8b\xff", b"[" * 200_000], ids=["cut", "binary", "deep"])
def test_a_list_of_images_that_cannot_be_read_is_one_clear_error(tmp_path, content):
    (tmp_path / "images").write_bytes(content)
    outcome, _ = scored(tmp_path, FOUND, "--images", tmp_path / "images")
    assert (outcome.code, "cannot be read as text or as a JSON list" in outcome.err) == (2, True), outcome.err


@pytest.mark.slow
def test_runs_on_other_images_are_not_compared(tmp_path):
    for name, prefix in (("a", ""), ("b", "other/")):
        (tmp_path / name).mkdir()
        images = [{**image, "file_name": prefix + image["file_name"]} for image in TRUTH["images"]]
        for file, content in (("truth", {**TRUTH, "images": images}), ("detections", FOUND)):
            (tmp_path / name / f"{file}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    outcome = call_apart("scripts/score.py", "--compare", tmp_path / "a", tmp_path / "b")
    assert outcome.code == 2
    assert (
        "was evaluated on other images than the ground truth lists: 4 file names differ, first other/tb/a.png"
        in outcome.err
    )
    assert call_apart("scripts/score.py", "--compare", tmp_path / "a", tmp_path / "a", "--bootstrap", 20).code == 0
