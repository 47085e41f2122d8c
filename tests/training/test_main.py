"""What the command line promises, on a phantom of a few images and a model of a few queries."""

import json
import re
from collections import Counter

import pytest

import main
from models import build_model
from tests.helpers.training import (
    CONFIG,
    ONE_EPOCH,
    ROOT,
    SMALL,
    TRAIN,
    VAL,
    assert_same_state,
    call,
    call_apart,
    copy_run,
    load,
    losses,
    metrics,
    options,
    rows,
    snapshot,
    torchrun,
    training,
)
from util.config import KNOBS, load_config
from util.metrics.files import load_detections

pytest_plugins = ["tests.helpers.training_fixtures"]
STEPS = 2 * TRAIN // 4  # two epochs of windows of four images
NUMBER = r"\d+\.\d{4}"


def detections_of(folder, phantom):
    truth = json.loads((phantom / "annotations/json/TBX11K_val.json").read_text())
    return load_detections(folder / "detections.json.gz", [image["id"] for image in truth["images"]])


def test_a_training_leaves_one_readable_folder(trained):
    assert {path.name for path in trained.iterdir()} == {
        "config.py", "info.txt", "log.jsonl", "checkpoint.pth", "checkpoint.1.pth", "best.pth", "report.json",
        "detections.json.gz", "truth.json.gz", "per_image.csv", "image_check.npz", "console.txt",  # the test's own
    }  # fmt: skip
    assert (trained / "info.txt").read_text() == (trained / "console.txt").read_text()


def test_the_log_has_a_row_per_step_per_epoch_and_per_evaluation(trained):
    steps, epochs, evaluations = (rows(trained, kind) for kind in ("train", "epoch", "eval"))
    assert [(row["epoch"], row["step"]) for row in steps] == [(step // 3, step + 1) for step in range(STEPS)]
    wanted = {"loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_ce_dn", "loss_ce_interm", "grad_norm"}
    wanted |= {"lr", "lr_backbone", "images", "images_with_boxes", "boxes", "time", "data", "images_per_second"}
    wanted |= {"class_skill", "class_error", "class_error_n", "recall_top10", "loss_median", "clipped_share"}
    assert all(wanted <= row.keys() for row in steps)
    assert [(row["epoch"], row["step"], row["images"]) for row in epochs] == [(0, 3, TRAIN), (1, 6, TRAIN)]
    assert [(row["epoch"], row["step"], row["weights"]) for row in evaluations] == [(0, 3, "ema"), (1, 6, "ema")]
    assert all({"all/per_class/AP", "all/agnostic/AP50", "tb_only/agnostic/AP"} <= row.keys() for row in evaluations)


def test_every_column_of_the_log_is_documented(trained):
    said = set(re.findall(r"`([\w./]+)`", (ROOT / "docs/logs.md").read_text()))
    base = re.compile(r"(_interm|_dn)?(_\d+)?$")  # suffixes are documented by themselves
    for kind in ("start", "train", "epoch"):
        columns = {base.sub("", name) for row in rows(trained, kind) for name in row}
        assert columns <= said, columns - said
    assert {"_interm", "_dn", "_0"} <= said


def test_an_epoch_row_is_the_mean_of_its_steps(trained):
    for epoch in rows(trained, "epoch"):
        steps = [row["loss"] for row in rows(trained, "train") if row["epoch"] == epoch["epoch"]]
        assert epoch["loss"] == pytest.approx(sum(steps) / len(steps), rel=1e-6)


def test_the_learning_rate_warms_up_and_drops(trained):
    warm, (lr, warmup) = [row["lr"] for row in rows(trained, "train")], (1e-3, 50)
    assert warm == pytest.approx([lr * (s + 1) / warmup * (0.1 if s >= 3 else 1) for s in range(STEPS)])


def test_the_report_is_the_last_evaluation(trained):
    report, last = metrics(trained), rows(trained, "eval")[-1]
    intervals = {key for key in report if key.endswith("/ci95")}
    assert {k: v for k, v in report.items() if k not in intervals} == {k: v for k, v in last.items() if k in report}
    assert {"all/per_class/AP/ci95", "tb_only/agnostic/froc_mean/ci95"} <= intervals
    assert all(low <= high for low, high in (report[key] for key in intervals))


def test_a_console_line_is_short_and_says_what_its_figures_are_of(trained):
    lines = [text for text in (trained / "console.txt").read_text().splitlines() if "lr: " in text]
    shape = (
        rf"Epoch: \[1\]  \[3/3\]  eta: \d+:\d\d:\d\d  lr: 1.2e-05  last 6 steps: \d+ boxes on 24 images  "
        rf"loss: {NUMBER}  per image with boxes: {NUMBER} without: {NUMBER}  skill: [+-]\d\.\d\d  "
        r"class_error: \d+\.\d % of \d+  "
        r"recall@10: \d\.\d\d  best score with: \d\.\d\d without: \d\.\d\d  grad_norm: \d+\.\d\d \(\d+% clipped\)  "
        r"time: \d+\.\d{3} \(data \d+%\)  max mem: \d+"
    )
    assert re.fullmatch(shape, lines[-1])
    assert len(lines) == STEPS
    assert max(map(len, lines)) < 350


def test_every_loss_term_is_told_on_request(phantom, room):
    outcome = call(*training(phantom, room / "run", "--verbose_losses", **ONE_EPOCH))
    [epoch] = rows(room / "run", "epoch")
    *_, line = (text for text in outcome.out.splitlines() if "lr: " in text)
    told = ("loss_median", "loss_with_boxes", "loss_without_boxes")
    assert set(re.findall(r"(loss_\w+): ", line)) == {name for name in epoch if name.startswith("loss_")} - set(told)


def test_the_start_says_what_is_trained_on_what(trained):
    said = (trained / "info.txt").read_text()
    assert "images per step = 2 per rank x 2 accumulation x 1 ranks = 4" in said
    assert f"train: TBX11K_train: {TRAIN} images" in said
    assert f"val: TBX11K_val: {VAL} images" in said
    assert "start: a new run" in said


def test_the_config_of_the_run_folder_repeats_the_run(trained, phantom, room):
    where = ["--data_path", phantom, "--output_dir", room / "again"]
    assert call("-c", trained / "config.py", *where).code == 0
    assert losses(room / "again") == losses(trained)
    assert_same_state(load(room / "again/checkpoint.pth"), load(trained / "checkpoint.pth"))


@pytest.mark.parametrize("with_config", [False, True])
def test_an_evaluation_finds_what_the_training_found(trained, phantom, room, with_config):
    config = ["-c", CONFIG, "--options", *options()] if with_config else []
    where = ["--data_path", phantom, "--output_dir", room]
    outcome = call("--eval", "--resume", trained / "checkpoint.pth", *where, *config)
    assert outcome.code == 0, outcome.err
    assert metrics(room) == metrics(trained)
    assert (room / "detections.json.gz").read_bytes() == (trained / "detections.json.gz").read_bytes()
    assert "evaluation after 2 epochs, weights: ema" in outcome.out


def test_the_best_checkpoint_gives_the_best_evaluation(trained, phantom, room):
    assert call("--eval", "--resume", trained / "best.pth", "--data_path", phantom, "--output_dir", room).code == 0
    best = load(trained / "best.pth")
    (ours,), theirs = rows(room, "eval"), rows(trained, "eval")[best["best"]["epoch"]]
    assert ours == {**theirs, "checkpoint": str(trained / "best.pth")}
    assert best["epoch"] == best["best"]["epoch"] + 1


def test_an_evaluation_in_a_run_folder_leaves_every_file_of_it(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = snapshot(run)
    assert call("--eval", "--output_dir", run, "--data_path", phantom).code == 0
    after = snapshot(run)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"eval_TBX11K_val"}


def test_every_image_is_judged_once(trained, phantom):
    found = detections_of(trained, phantom)
    assert Counter(found.image_id.tolist()) == dict.fromkeys(found.images, SMALL["num_select"])
    assert len(found.images) == VAL


def test_an_option_reaches_the_loss(trained, phantom, room):
    assert call(*training(phantom, room / "run", focal_gamma=1.0, **ONE_EPOCH)).code == 0
    ours, theirs = losses(room / "run")[0], losses(trained)[0]
    assert ours["loss_ce_dn"] > theirs["loss_ce_dn"]  # a smaller exponent forgives less, query by query
    assert ours["loss_bbox_dn"] == theirs["loss_bbox_dn"]


def test_options_may_be_given_in_several_places(phantom, room):
    more = ["--options", "epochs=1", "--options", "lr_drop=[]"]
    assert call(*training(phantom, room / "run"), *more).code == 0
    config = load_config(room / "run/config.py")
    assert (config.optim.epochs, config.optim.lr_drop, config.model.hidden_dim) == (1, (), SMALL["hidden_dim"])


def test_bf16_trains_on_a_cpu(trained, phantom, room):
    assert call(*training(phantom, room / "run", amp="bf16", **ONE_EPOCH)).code == 0
    ours, theirs = losses(room / "run")[0]["loss"], losses(trained)[0]["loss"]
    assert ours == pytest.approx(theirs, rel=0.1)
    assert ours != theirs


def test_a_validation_set_without_a_box_gets_a_report_of_whole_images(data, room):
    path = data / "annotations/json/TBX11K_val.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    outcome = call(*training(data, room / "run", **ONE_EPOCH))
    assert (outcome.code, outcome.err) == (0, "")
    assert "has a box: AP is undefined and no best.pth is chosen" in outcome.out
    assert not (room / "run/best.pth").exists()
    report = metrics(room / "run")
    assert report
    assert not [key for key in report if "/image/" not in key and "confusion" not in key and "operating" not in key]
    assert (room / "run/checkpoint.pth").is_file()


def test_a_training_set_without_a_box_is_refused(data, room):
    path = data / "annotations/json/TBX11K_train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    outcome = call(*training(data, room / "run", **ONE_EPOCH, exclude_unlabelled_tb=False))
    assert outcome.code == 2
    assert "has a box: there is nothing to learn; check that this is the right list" in outcome.err
    assert not (room / "run").exists()


@pytest.mark.slow
def test_checkpoints_are_kept_at_the_interval_asked_for(phantom, room):
    assert call(*training(phantom, room / "run", epochs=2, save_checkpoint_interval=2, eval_every=2)).code == 0
    names = sorted(p.name for p in (room / "run").glob("*.pth"))
    assert names == ["best.pth", "checkpoint.1.pth", "checkpoint.pth", "checkpoint0002.pth"]
    assert [row["epoch"] for row in rows(room / "run", "eval")] == [1]


@pytest.mark.parametrize("name", ["DINO_4scale_tbx11k", "DINO_4scale_tbx11k_1gpu"])
def test_both_recipes_build(name):
    config = load_config(ROOT / f"config/DINO/{name}.py")
    model, criterion, _ = build_model(config, (1, 2, 3))
    assert 46e6 < sum(p.numel() for p in model.parameters()) < 48e6  # DINO with a ResNet-50: 47 million
    assert criterion is not None
    assert config.optim.batch_size * config.optim.gradient_accumulation_steps == (2 if "1gpu" in name else 1)


def test_the_environment_is_never_told(phantom, room, monkeypatch):
    secret = "hunter2-correct-horse-battery"
    monkeypatch.setenv("DATABASE_PASSWORD", secret)
    outcome = call(*training(phantom, room / "run", **ONE_EPOCH))
    assert outcome.code == 0
    assert secret not in outcome.out + outcome.err
    files = [path for path in (room / "run").rglob("*") if path.is_file()]
    assert len(files) == 10
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_the_data_folder_is_only_read(phantom, trained):
    names = {path.name for path in phantom.iterdir()}
    assert trained.is_dir()
    assert names == {"annotations", "imgs", "lists", "phantom.json"}


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        main.parse_arguments(["--help"])
    said = capsys.readouterr().out
    flags = {"--config_file", "--options", "--data_path", "--output_dir", "--resume", "--pretrain_model_path"}
    assert all(flag in said for flag in flags | {"--eval", "--device"})


def test_the_folder_of_a_run_may_have_any_name(phantom, room, monkeypatch):
    """Spaces, umlauts, quotes and backslashes; the config.py that quotes the command must still be Python."""
    monkeypatch.chdir(room)
    odd = 'Läufe 1/it\'s a "run" \\N'
    (room / "Daten ü").symlink_to(phantom)
    monkeypatch.setattr("sys.argv", ["main.py", *training("Daten ü", odd)])
    outcome = call(*training("Daten ü", odd, **ONE_EPOCH))
    assert (outcome.code, outcome.err) == (0, "")
    config = load_config(room / odd / "config.py")
    assert config.optim.epochs == 1
    assert set(config.__dataclass_fields__) == {section for section, _ in KNOBS.values()}


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(trained, phantom, room):
    assert call(*training(phantom, room / "run", num_workers=2)).code == 0
    assert losses(room / "run") == losses(trained)
    assert (room / "run/detections.json.gz").read_bytes() == (trained / "detections.json.gz").read_bytes()


@pytest.mark.slow
def test_two_ranks_train_as_one_with_two_accumulation_steps(phantom, room):
    """Among the steps are some without a box, and some with fewer boxes than ranks."""
    once = {"batch_size": 1}
    alone = call(*training(phantom, room / "one", gradient_accumulation_steps=2, **once))
    assert alone.code == 0, alone.err
    outcome = torchrun(2, *training(phantom, room / "two", gradient_accumulation_steps=1, **once))
    assert outcome.code == 0, outcome.err
    assert "images per step = 1 per rank x 1 accumulation x 2 ranks = 2" in outcome.out
    assert outcome.out.count("start: a new run") == 1  # one rank speaks
    ours, theirs = losses(room / "two"), losses(room / "one")
    assert len(ours) == len(theirs) == 2 * TRAIN // 2
    assert 0 in {row["boxes"] for row in ours}
    for a, b in zip(ours, theirs, strict=True):
        assert a.pop("boxes_by_category") == b.pop("boxes_by_category")
        known = {name for name, value in b.items() if value is not None}
        assert {name for name, value in a.items() if value is not None} == known
        assert {name: a[name] for name in known} == pytest.approx({name: b[name] for name in known}, rel=1e-4, abs=1e-6)
    found, truth = detections_of(room / "two", phantom), detections_of(room / "one", phantom)
    assert Counter(found.image_id.tolist()) == dict.fromkeys(truth.images, SMALL["num_select"])
    assert found.score == pytest.approx(truth.score, rel=1e-3)


@pytest.mark.slow
def test_main_runs_as_a_script(trained, phantom, room):
    evaluation = ["main.py", "--eval", "--resume", trained / "best.pth", "--data_path", phantom, "--output_dir", room]
    outcome = call_apart(*evaluation)
    assert (outcome.code, outcome.err) == (0, "")
    assert "evaluation after" in outcome.out
