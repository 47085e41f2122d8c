import json

import pytest

from util.base.errors import UserError
from util.doctor.official_logs.read import ForeignLogError, read_foreign, read_with_recovery

EMPTY, BOXES, QUERIES = 0.9, 0.15, 300  # made up: nine of ten images have no box


def row(epoch, **changes):
    """An epoch of log.txt: of the images with boxes, 40 % have two; 20 % of their boxes get the wrong class."""
    figures = {
        "train_lr": 1e-4,
        "train_class_error": 100 * EMPTY + 20 * (1 - EMPTY),
        "train_loss": 2.0,
        "train_loss_ce": 0.05,
        "train_loss_bbox": 0.05,
        "train_loss_bbox_unscaled": 0.01,
        "train_loss_giou": 0.06,
        "train_cardinality_error_unscaled": QUERIES - BOXES,
        "train_cardinality_error_0_unscaled": QUERIES - BOXES - 0.001,
        "train_cardinality_error_dn_unscaled": 200 * (1 - EMPTY) - BOXES,
        "test_class_error": 92.0,
        "test_loss": 1.5,
        "test_loss_ce": 0.06,
        "test_coco_eval_bbox": [0.1, 0.3, 0.05, -1.0, 0.1, 0.1, 0.2, 0.4, 0.5, -1.0, 0.4, 0.5],
        "epoch": epoch,
    }
    return {k: v for k, v in (figures | changes).items() if v is not None}


def write(tmp_path, *rows, name="log.txt"):
    path = tmp_path / name
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


def step(epoch, i, n=100, *, error=100.0, loss=(0.0, 2.0), extra=""):
    """A line of the console: median or last value, and the mean of the epoch in brackets."""
    means = {
        "loss_ce": 0.05,
        "cardinality_error_unscaled": QUERIES - BOXES,
        "cardinality_error_dn_unscaled": 200 * (1 - EMPTY) - BOXES,
        "class_error_unscaled": 92.0,
    }
    figures = "  ".join(f"{k}: 0.0000 ({v:.4f})" for k, v in means.items())
    return (
        f"Epoch: [{epoch}]  [{i:4d}/{n}]  eta: 0:10:00  lr: 0.000100  class_error: {error:.2f}  "
        f"loss: {loss[0]:.4f} ({loss[1]:.4f})  {figures}{extra}  time: 0.2000  data: 0.0500  max mem: 2000\n"
    )


def summary(ap, ap50=0.4):
    lines = [("Precision", "AP", "0.50:0.95", "all", 100, ap), ("Precision", "AP", "0.50", "all", 100, ap50)]
    lines += [("Precision", "AP", "0.50:0.95", "small", 100, -1.0), ("Recall", "AR", "0.50:0.95", "all", 1, 0.2)]
    lines += [("Recall", "AR", "0.50:0.95", "all", 100, 0.6)]
    form = " Average {:9s}  ({}) @[ IoU={:9s} | area={:>6s} | maxDets={:>3d} ] = {:.3f}\n"
    return "".join(form.format(*line) for line in lines)


def test_the_class_error_of_images_with_boxes_comes_out_of_that_of_all(tmp_path):
    (epoch,) = read_foreign(write(tmp_path, row(3))).epochs
    assert epoch.number == 3
    assert epoch.get("boxes_per_image") == pytest.approx(0.15)
    assert epoch.get("images_share_with_boxes") == pytest.approx(0.1)
    assert epoch.get("class_error") == pytest.approx(20.0)
    assert epoch.get("class_error_official") == pytest.approx(92.0)


def test_losses_come_without_their_weights(tmp_path):
    epoch = read_foreign(write(tmp_path, row(0))).last
    assert epoch.get("loss") == 2.0
    assert epoch.get("loss_ce") == 0.05
    assert epoch.get("loss_bbox") == 0.01  # as logged without weight
    assert epoch.get("loss_giou") == pytest.approx(0.03)  # 0.06 by the official weight of 2


def test_the_class_skill_is_given_for_both_alphas_until_the_log_tells_which(tmp_path):
    epoch = read_foreign(write(tmp_path, row(0))).last
    low, high = epoch.get("class_skill_if_alpha_25"), epoch.get("class_skill_if_alpha_75")
    assert low == pytest.approx(1 - 0.05 / epoch.get("loss_ce_of_best_constant_if_alpha_25"))
    assert low < high
    assert epoch.get("class_skill") is None
    (tmp_path / "config_args_all.json").write_text(json.dumps({"focal_alpha": 0.75, "lr": 1e-4, "modelname": "dino"}))
    history = read_foreign(tmp_path / "log.txt")
    assert history.last.get("class_skill") == pytest.approx(high)
    assert history.last.get("test_class_skill") is not None
    assert history.last.get("class_skill_if_alpha_25") is None
    assert history.config == {"focal_alpha": 0.75}


def test_evaluations_are_of_the_ema_and_those_of_the_model_stand_beside(tmp_path):
    ema = [0.2, 0.5, 0.1, -1.0, 0.1, 0.1, 0.3, 0.4, 0.7, -1.0, 0.4, 0.5]
    judged = read_foreign(write(tmp_path, row(0, ema_test_coco_eval_bbox=ema))).last.evaluation
    assert judged["weights"] == "ema"
    names = ("AP", "AP50", "AR1", "AR100")
    assert [judged[f"all/per_class/{n}"] for n in names] == [0.2, 0.5, 0.3, 0.7]
    assert [judged[f"model/all/per_class/{n}"] for n in names] == [0.1, 0.3, 0.2, 0.5]


def test_without_an_ema_the_evaluation_is_of_the_model(tmp_path):
    judged = read_foreign(write(tmp_path, row(0))).last.evaluation
    assert (judged["weights"], judged["all/per_class/AP"]) == ("model", 0.1)


def test_class_error_and_cardinality_error_are_named_as_saying_nothing(tmp_path):
    class_error, cardinality = read_foreign(write(tmp_path, row(0), row(1))).artefacts
    assert "90.0% of the steps have none" in class_error
    assert "class_error (92.0)" in class_error
    assert "it is 20 in the last epoch" in class_error
    assert "the 300 queries less about 0.15 boxes per image" in cardinality


def test_class_error_is_as_logged_where_nearly_all_images_have_boxes(tmp_path):
    crowded = {"train_cardinality_error_unscaled": 893.0, "train_cardinality_error_0_unscaled": 892.9}
    crowded |= {"train_cardinality_error_dn_unscaled": 187.0, "train_class_error": 9.5}
    history = read_foreign(write(tmp_path, row(0, **crowded)))
    assert history.last.get("class_error") == 9.5
    assert not any(text.startswith("class_error") for text in history.artefacts)


def test_a_share_that_cannot_be_recovered_is_said_to_be_unknown(tmp_path):
    history, recovered = read_with_recovery(write(tmp_path, row(0, train_cardinality_error_dn_unscaled=None)))
    assert history.last.get("class_error") is None
    assert history.last.get("class_skill_if_alpha_25") is None
    assert "could not be recovered" in history.artefacts[0]
    assert any("could not be recovered" in text for text in recovered.remarks)


def test_an_epoch_that_comes_again_replaces_it_and_what_followed(tmp_path):
    rows = [row(0), row(1), row(2, train_loss=9.0), row(3), row(2, train_loss=1.0)]
    history, recovered = read_with_recovery(write(tmp_path, *rows))
    assert history.series("loss") == [(0, 2.0), (1, 2.0), (2, 1.0)]
    assert "epochs 3 from before" in recovered.remarks[-1]


def test_a_cut_last_line_and_noise_are_left_out(tmp_path):
    path = write(tmp_path, row(0), "\x00\xff garbage {\n", "{}\n", json.dumps(row(1))[:200])
    assert [e.number for e in read_foreign(path).epochs] == [0]


@pytest.mark.parametrize("token", ["NaN", "nan", '"NaN"', "-inf"])
def test_a_loss_that_is_not_finite_is_told_and_no_figure(tmp_path, token):
    text = json.dumps(row(1, train_loss=777.0)).replace("777.0", token)
    history = read_foreign(write(tmp_path, row(0), text + "\n"))
    assert history.not_finite == ({"kind": "nonfinite", "epoch": 1},)
    assert history.series("loss") == [(0, 2.0)]
    assert history.last.get("loss_ce") == 0.05


def test_rows_without_their_epoch_are_counted_and_lone_evaluations_left_out(tmp_path):
    path = write(tmp_path, row(None), {"test_loss": 7.0}, row(None))
    history = read_foreign(path)
    assert [e.number for e in history.epochs] == [0, 1]
    assert history.series("test_loss") == [(0, 1.5), (1, 1.5)]


def test_the_console_tells_means_and_what_the_eye_sees(tmp_path):
    lines = [step(4, i, error=100.0 if i else 0.0) for i in (0, 10, 20, 30)]
    history = read_foreign(write(tmp_path, *lines, name="job.out"))
    assert history.last.number == 4
    assert not history.last.is_whole
    assert history.last.get("loss") == 2.0
    assert history.last.get("class_error") == pytest.approx(20.0)
    assert history.last.get("data_share") == pytest.approx(0.25)
    assert "exactly 100.00 on 75% of 4 console lines" in history.artefacts[2]
    assert "loss reads 0.0000 on 100% of 4 console lines" in history.artefacts[3]
    assert "in brackets, is 2" in history.artefacts[3]


def test_an_epoch_of_the_console_is_read_to_its_evaluations(tmp_path):
    test = "Test:  [  0/50]  eta: 0:00:09  class_error: 100.00  loss: 0.0 (0.0)\n"
    averaged = "Averaged stats: class_error: 0.00  loss: 0.1 ({})  loss_ce_unscaled: 0.0 (0.07)\n"
    lines = [step(0, 0), step(0, 99), averaged.format(3.25)]
    lines += [test, averaged.format(1.5), summary(0.1), test, averaged.format(1.25), summary(0.2), summary(0.9)]
    history = read_foreign(write(tmp_path, *lines, step(1, 0, loss=(5.0, 5.0)), name="job.out"))
    first, second = history.epochs
    assert (first.is_whole, second.is_whole) == (True, False)
    assert (first.get("loss"), first.get("test_loss"), first.get("ema_test_loss")) == (3.25, 1.5, 1.25)
    assert first.judged("all/per_class/AP") == 0.2
    assert first.judged("model/all/per_class/AP") == 0.1
    assert (first.judged("all/per_class/AR1"), first.judged("all/per_class/AR100")) == (0.2, 0.6)
    assert first.judged("all/per_class/AP75") is None
    assert second.get("loss") == 5.0


def test_settings_are_taken_from_what_the_job_printed(tmp_path):
    args = "args: Namespace(batch_size=1, dn_number=100, focal_alpha=0.25, num_classes=4, num_queries=300, lr=0.0001)\n"
    path = write(tmp_path, "focal_alpha = 0.5\n", args, step(0, 99), "dn_number: 7\n", step(1, 99), name="job.out")
    history = read_foreign(path)
    assert [(s["kind"], s["epoch"]) for s in history.starts] == [("start", 0)]
    assert history.config["focal_alpha"] == 0.25
    assert history.config["num_queries"] == 300
    assert history.last.get("class_skill") is not None


def test_a_resume_with_other_settings_is_a_second_start(tmp_path):
    args = "Namespace(batch_size=1, focal_alpha={}, num_queries=300)\n"
    lines = [args.format(0.25), step(0, 99), args.format(0.75), step(1, 0)]
    history = read_foreign(write(tmp_path, *lines, name="job.out"))
    assert [(s["epoch"], s["config"]["focal_alpha"]) for s in history.starts] == [(0, 0.25), (1, 0.75)]


def test_a_config_dump_counts_as_settings(tmp_path):
    dump = 'num_queries = 300\n  "focal_alpha": 0.75,\n'
    history = read_foreign(write(tmp_path, dump, step(0, 99), name="job.out"))
    assert history.config == {"num_queries": 300, "focal_alpha": 0.75}


def test_a_run_that_stopped_at_nan_is_told(tmp_path):
    path = write(tmp_path, step(2, 10), "Loss is nan, stopping training\n", name="job.out")
    assert read_foreign(path).not_finite == ({"kind": "nonfinite", "epoch": 2},)


def test_a_folder_is_read_by_its_log_and_its_console(tmp_path):
    write(tmp_path, "Namespace(focal_alpha=0.75)\n", step(0, 99), step(1, 5), name="info.txt")
    write(tmp_path, row(0, train_loss=2.5))
    history = read_foreign(tmp_path)
    assert history.series("loss") == [(0, 2.5), (1, 2.0)]
    assert history.config == {"focal_alpha": 0.75}


def test_what_windows_wrote_is_read(tmp_path):
    path = tmp_path / "job.out"
    path.write_text(step(0, 99), encoding="utf-16")
    assert read_foreign(path).last.get("loss") == 2.0


def test_own_logs_are_not_foreign(tmp_path):
    own = {"kind": "epoch", "epoch": 0, "loss": 1.0, "train_loss": 2.0}
    console = "Epoch: [0]  [ 2/2]  eta: 0:00:00  lr: 0.000040  loss: 3.1  grad_norm: 4.1 (3% clipped)\n"
    for text, name in ((json.dumps(own), "log.txt"), (console, "job.out")):
        with pytest.raises(ForeignLogError, match="neither"):
            read_foreign(write(tmp_path, text, name=name))


def test_garbage_gives_one_error_for_the_user(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(bytes(range(256)) * 50)
    with pytest.raises(ForeignLogError, match=r"log\.txt: expected a log\.txt with one JSON object per epoch"):
        read_foreign(path)
    with pytest.raises(UserError, match=r"nowhere\.txt: cannot be read"):
        read_foreign(tmp_path / "nowhere.txt")


@pytest.mark.data
def test_a_real_failed_and_a_real_healthy_log_give_back_what_is_known_of_the_data(shared):
    runs = {name: read_foreign(shared / "eval" / f"fork_{name}.log.txt") for name in ("failed", "healthy")}
    for history in runs.values():
        assert [e.number for e in history.epochs] == list(range(24))
        assert history.last.get("boxes_per_image") == pytest.approx(902 / 6888, rel=0.01)
        assert history.last.get("images_share_with_boxes") == pytest.approx(599 / 6888, rel=0.005)
        constants = [history.last.get(f"test_loss_ce_of_best_constant_if_alpha_{a}") for a in (25, 75)]
        assert constants == pytest.approx([0.0892, 0.205], rel=0.04)  # of 200 images of 2088 with 309 boxes
        assert all(17 < error < 25 for _, error in history.series("class_error"))
        assert [text.split(" ")[0] for text in history.artefacts] == ["class_error", "cardinality_error"]
    assert all(skill < -0.3 for n, skill in runs["failed"].series("class_skill_if_alpha_25") if n >= 14)
    assert all(skill > 0.6 for n, skill in runs["healthy"].series("class_skill_if_alpha_75") if n >= 4)
    assert max(ap for _, ap in runs["failed"].judged("all/per_class/AP")) == pytest.approx(0.0382, abs=1e-4)


@pytest.mark.data
def test_a_real_console_shows_nothing_but_artefacts(shared):
    history = read_foreign(shared / "eval" / "fork_healthy_console_excerpt.out")
    assert [e.number for e in history.epochs] == [24]
    assert not history.last.is_whole
    assert history.last.get("images_share_with_boxes") == pytest.approx(0.087, abs=0.005)
    assert history.last.get("class_skill_if_alpha_75") > 0.6
    assert any("100.00 on 92% of 40" in text for text in history.artefacts)
    assert any("0.0000 on 100% of 40" in text for text in history.artefacts)
