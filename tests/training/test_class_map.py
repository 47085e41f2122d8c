"""num_classes = "auto": any category ids train, evaluate, resume, predict and export as the ids 0, 1, 2 do."""

import gzip
import json

import numpy as np
import pytest
import torch

from models import load_detector
from models.export import ExportSettings, export_checkpoint, load_onnx_detector
from models.inference.attention_maps import trace_detection
from tests.helpers.predict import lines, predict
from tests.helpers.training import (
    ONE_EPOCH,
    annotations,
    assert_refused,
    assert_same_state,
    call,
    copy_run,
    figures,
    load,
    metrics,
    rows,
    training,
)
from util.config import load_config
from util.images import read_image

pytest_plugins = ["tests.helpers.training_fixtures"]
AUTO = {"dataset_file": "coco", "train_list": "train", "val_list": "val"}
AUTO |= {"num_classes": "auto", "dn_labelbook_size": "auto"}
PLAIN = {1: 0, 2: 1, 3: 2}
HUGE = {1: 7, 2: 40, 3: 2**62 + 1}


def write_lists(folder, source, ids):
    """The phantom in the layout of COCO, with other category ids."""
    (folder / "annotations").mkdir(parents=True)
    for side in ("train", "val"):
        content = json.loads(annotations(source, side).read_text())
        for row in content["categories"]:
            row["id"] = ids[row["id"]]
        for row in content["annotations"]:
            row["category_id"] = ids[row["category_id"]]
        (folder / side).symlink_to(source / "imgs")
        (folder / f"annotations/instances_{side}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def both(phantom, tmp_path_factory):
    """{"plain" | "huge": (data folder, run folder)} of two trainings that differ in the ids alone."""
    made = {}
    for name, ids in (("plain", PLAIN), ("huge", HUGE)):
        folder = tmp_path_factory.mktemp(name)
        data = write_lists(folder / "data", phantom, ids)
        outcome = call(*training(data, folder / "run", **AUTO))
        assert (outcome.code, outcome.err) == (0, "")
        made[name] = data, folder / "run"
    return made


def renamed(value):
    """Keys by category id, as the plain run has them."""
    if isinstance(value, dict):
        return {{str(b): str(PLAIN[a]) for a, b in HUGE.items()}.get(k, k): renamed(v) for k, v in value.items()}
    return value


def detections_of(run):
    return json.loads(gzip.decompress((run / "detections.json.gz").read_bytes()))


def test_the_ids_change_no_loss_no_metric_and_no_weight(both):
    (_, plain), (_, huge) = both["plain"], both["huge"]
    assert figures(plain) == [renamed(row) for row in figures(huge)]
    assert metrics(plain) == metrics(huge)
    ours, theirs = load(huge / "best.pth"), load(plain / "best.pth")
    assert all(torch.equal(ours["model"][k], theirs["model"][k]) for k in theirs["model"])
    assert "class_ids" not in theirs
    assert ours["class_ids"] == list(HUGE.values())
    for content, run in ((ours, huge), (theirs, plain)):
        assert [content["config"][k] for k in ("num_classes", "dn_labelbook_size")] == [3, 3]
        assert load_config(run / "config.py").model.num_classes == 3
    [start] = rows(huge, "start")
    assert start["class_ids"] == list(HUGE.values())
    assert start["train"]["boxes_by_category"].keys() == {str(k) for k in HUGE.values()}


def test_results_have_the_ids_of_the_lists(both):
    (_, plain), (_, huge) = both["plain"], both["huge"]
    back = {b: PLAIN[a] for a, b in HUGE.items()}
    found = detections_of(huge)
    assert [{**row, "category_id": back[row["category_id"]]} for row in found] == detections_of(plain)
    assert len({row["category_id"] for row in found}) > 1


def test_a_resume_continues_it_with_auto_or_with_its_own_config(both, room, monkeypatch):
    import main

    data, finished = both["huge"]
    real = main.after_step

    def interrupt(run, *rest):
        if run.state.step == 4:
            raise KeyboardInterrupt
        real(run, *rest)

    monkeypatch.setattr(main, "after_step", interrupt)
    assert call(*training(data, room / "run", **AUTO)).code == 130
    monkeypatch.undo()
    own = copy_run(room / "run", room / "own")
    assert call(*training(data, room / "run", **AUTO)).code == 0
    assert_same_state(load(room / "run/checkpoint.pth"), load(finished / "checkpoint.pth"))
    outcome = call("-c", own / "config.py", "--data_path", data, "--output_dir", own, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert_same_state(load(own / "checkpoint.pth"), load(finished / "checkpoint.pth"))


def test_auto_takes_the_classes_of_the_checkpoint_that_it_resumes(phantom, trained, room):
    auto = {"num_classes": "auto", "dn_labelbook_size": "auto", "epochs": 3}
    outcome = call(*training(phantom, room / "run", "--resume", trained / "checkpoint.pth", **auto))
    assert outcome.code == 0, outcome.err
    assert load(room / "run/checkpoint.pth")["config"]["num_classes"] == 4
    assert "class_ids" not in load(room / "run/checkpoint.pth")


def test_an_evaluation_repeats_the_metrics_whatever_the_config_says(both, room):
    data, run = both["huge"]
    where = ["--eval", "--resume", run / "checkpoint.pth", "--data_path", data, "--device", "cpu", "--output_dir"]
    for name, config in (("inside", []), ("given", training(data, "x", **AUTO)[:2])):
        chosen = ["--options", *training(data, "x", **AUTO)[9:]] if config else []
        outcome = call(*where, room / name, *config, *chosen)
        assert (outcome.code, outcome.err) == (0, "")
        assert metrics(room / name) == metrics(run)
        assert detections_of(room / name) == detections_of(run)


def test_boxes_of_a_category_that_the_network_does_not_know_are_refused(both, room, phantom):
    _, run = both["huge"]
    other = write_lists(room / "other", phantom, {**HUGE, 2: 41})
    outcome = call("--eval", "--resume", run / "best.pth", "--data_path", other, "--device", "cpu")
    assert_refused(outcome, "instances_val.json", "no class of the network: 41 (", str(2**62 + 1))
    assert_refused(call(*training(other, run, **AUTO, epochs=3)), "was trained on the categories [7, 40, ")


def test_a_number_that_is_too_small_for_huge_ids_names_auto(both, room):
    data, _ = both["huge"]
    outcome = call(*training(data, room / "run", **{**AUTO, "num_classes": 4}))
    assert_refused(outcome, "num_classes is 4; set --options num_classes=auto")


def test_predictions_have_the_ids_and_names_of_the_lists(both, room, phantom):
    answers = {}
    for name, (_, run) in both.items():
        more = ["--flip", "--threshold", "0.01"]
        outcome = predict("--checkpoint", run / "best.pth", "--output_dir", room / name, *more, phantom / "imgs")
        assert outcome.code == 0, outcome.err
        answers[name] = json.loads((room / name / "detections.json").read_text())
    back = {b: PLAIN[a] for a, b in HUGE.items()}
    assert [{**row, "category_id": back[row["category_id"]]} for row in answers["huge"]] == answers["plain"]
    plain, huge = (lines(room / name / "detections.csv") for name in ("plain", "huge"))
    assert [row["category"] for row in plain] == [row["category"] for row in huge]
    assert {int(row["category_id"]) for row in huge} <= set(HUGE.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["inside", "outside"])
def test_an_exported_file_gives_the_ids(both, room, phantom, part):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = sorted((phantom / "imgs").rglob("*.png"))[0]
    images = [read_image(path)] * 4
    _, run = both["huge"]
    settings = ExportSettings("onnx", None, part, "test", 0)
    output, facts, agreement = export_checkpoint(run / "best.pth", room / "x.onnx", settings, images, lambda _: None)
    assert agreement.is_good
    assert facts.class_ids == tuple(HUGE.values())
    found = load_onnx_detector(output)(path)
    expected = load_detector(run / "best.pth", device="cpu")(path)
    assert found.label.tolist() == expected.label.tolist()
    assert set(found.label.tolist()) <= set(HUGE.values())
    assert np.allclose(found.score, expected.score, atol=1e-4)


def test_attention_is_traced_for_the_class_of_the_id(both, phantom):
    image = read_image(sorted((phantom / "imgs").rglob("*.png"))[0])
    plain, huge = (trace_detection(load_detector(both[k][1] / "best.pth", device="cpu"), image, 1) for k in both)
    assert plain.name == huge.name
    assert [layer.score for layer in plain.layers] == [layer.score for layer in huge.layers]


def test_weights_of_other_ids_start_the_rows_of_the_same_names(both, trained, room):
    data, _ = both["huge"]
    command = training(data, room / "tuned", "--pretrain_model_path", trained / "best.pth", **AUTO, **ONE_EPOCH, lr=0.0)
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    assert "class_embed.0.weight (4 x 32 -> 3 x 32): 3 rows by category name" in outcome.out
    ours, theirs = load(room / "tuned/checkpoint.pth")["model"], load(trained / "best.pth")["ema"]
    assert torch.equal(ours["class_embed.0.weight"], theirs["class_embed.0.weight"][1:])
    assert torch.equal(ours["label_enc.weight"][:3], theirs["label_enc.weight"][1:4])
