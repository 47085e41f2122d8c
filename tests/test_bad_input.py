"""What a stranger gets wrong: one clear message for each, a code that is not 0, and nothing lost."""

import argparse
import json
import os
import resource
import shutil
import signal
from functools import partial

import pytest
import torch
from end_to_end import CONFIG, ROOT, call, call_apart, copy_run, load, losses, options, snapshot, torchrun, training

import main
from util.files import WriteError

pytest_plugins = ["end_to_end_fixtures"]
ONE_EPOCH = {"epochs": 1, "lr_drop": []}


def assert_refused(outcome, *phrases, code=2):
    """One message, no traceback, and in it all that helps."""
    assert outcome.code == code, outcome.out + outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.out + outcome.err
    for phrase in phrases:
        assert str(phrase) in outcome.err


def assert_refused_before_anything_is_written(data, folder, *phrases, **changes):
    assert_refused(call(*training(data, folder, **{**ONE_EPOCH, **changes})), *phrases)
    assert not folder.exists()


def annotations(data, which="train"):
    return data / f"annotations/json/TBX11K_{which}.json"


def edit(path, change):
    """Let `change` spoil the content of a json file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


def first_image(data, which="train"):
    return data / "imgs" / json.loads(annotations(data, which).read_text())["images"][0]["file_name"]


# --- the command line and the config ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "phrases"),
    [
        ("focal_alfa=0.5", ["unknown key 'focal_alfa'", "did you mean 'focal_alpha'?"]),
        ("xyzzy=1", ["unknown key 'xyzzy'", "util/schema.py"]),
        ("dn_scalar=100", ["unknown key 'dn_scalar'", "use dn_number"]),
        ("lr=fast", ["lr must be float, got 'fast'"]),
        ("num_queries=20.5", ["num_queries must be int, got 20.5"]),
        ("use_ema=yes", ["use_ema must be bool, got 'yes'"]),
        ("focal_alpha=75", ["focal_alpha must lie in [0, 1], got 75"]),
        ("lr=nan", ["lr must be"]),
        ("lr=1e999", ["lr must be"]),
        ("backbone=resnet51", ["backbone must be one of", "'resnet50'", "got 'resnet51'"]),
        ("batch_size=0", ["batch_size must be at least 1, got 0"]),
        ("num_workers=-1", ["num_workers must lie in [0, 256], got -1"]),
        ("num_workers=100000", ["num_workers must lie in [0, 256], got 100000"]),
        ("lr_drop=[30]", ["lr_drop [30] would never happen: training ends after epoch 1"]),
        ("hidden_dim=100", ["hidden_dim 100 must be a multiple of 32"]),
        ("num_select=1000", ["num_select 1000"]),
        ("data_path=/data", ["unknown key 'data_path'", "--data_path DIR"]),
        ("focal_alpha", ["option 'focal_alpha' is not KEY=VALUE"]),
        ("=3", ["option '=3' is not KEY=VALUE"]),
    ],
)
def test_an_option_that_cannot_be_is_refused(phantom, room, option, phrases):
    outcome = call(*training(phantom, room / "run"), option)
    assert_refused(outcome, *phrases)
    assert len(outcome.err.splitlines()) <= 2
    assert not (room / "run").exists()


def test_all_problems_of_a_config_are_told_at_once(phantom, room):
    outcome = call(*training(phantom, room / "run", epochs=0, hiden_dim=64, focal_alpha=75))
    assert_refused(outcome, f"{CONFIG}:", "epochs must", "'hiden_dim'; did you mean 'hidden_dim'?", "focal_alpha must")


def test_a_config_that_is_not_there(phantom, room):
    outcome = call(*training(phantom, room / "run", config=room / "nowhere.py"))
    assert_refused(outcome, f"config file not found: {room / 'nowhere.py'}")


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("lr = = 3\n", ["line 1", "SyntaxError"]),
        ("lr = ten\n", ["NameError", "'ten'"]),
        ("_base_ = 'none.py'\n", ["config file not found", "none.py"]),
        ("", ["missing key 'lr'"]),
        ("_base_ = 'c.py'\n", ["is its own _base_"]),
        ("import os.nothing\n", ["ModuleNotFoundError"]),
        ("raise SystemExit(0)\n", ["SystemExit"]),
    ],
)
def test_a_config_that_is_no_config(phantom, room, text, phrases):
    (room / "c.py").write_text(text)
    where = ["--data_path", phantom, "--output_dir", room / "run"]
    assert_refused(call("-c", room / "c.py", *where), str(room), *phrases)
    assert not (room / "run").exists()


@pytest.mark.parametrize("missing", ["--config_file", "--output_dir"])
def test_training_needs_a_config_and_a_folder(phantom, room, missing):
    given = {"--config_file": str(CONFIG), "--output_dir": str(room / "run"), "--data_path": str(phantom)}
    del given[missing]
    assert_refused(call(*[word for pair in given.items() for word in pair]), f"training needs --config_file CONFIG and")


def test_an_unknown_flag_and_a_missing_data_path_end_with_code_2(phantom, room):
    for arguments in ([*training(phantom, room / "run"), "--learning_rate", "3"], ["-c", CONFIG]):
        outcome = call(*arguments)
        assert outcome.code == 2
        assert outcome.err.startswith("usage: ")
        assert outcome.err.count("error: ") == 1
    assert not (room / "run").exists()


def test_cuda_without_cuda(phantom, room, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = call(*training(phantom, room / "run"), "--device", "cuda")
    assert_refused(outcome, "--device cuda: PyTorch sees no CUDA device; check the driver and the allocation")


def test_a_gpu_that_is_full_is_told_with_the_mend(phantom, room, monkeypatch):
    def fill(*_args, **_more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nsee the manual")

    monkeypatch.setattr(main, "train_one_epoch", fill)
    outcome = call(*training(phantom, room / "run"))
    assert_refused(outcome, "CUDA out of memory. Tried to allocate 20.00 MiB. Lower batch_size", code=1)


def test_more_queries_than_the_image_has_cells(phantom, room):
    outcome = call(*training(phantom, room / "run", num_queries=5000))
    assert_refused(outcome, "num_queries 5000 exceeds the", "use larger images, more feature levels or fewer queries")


# --- the data folder -------------------------------------------------------------------------------------------------


def test_a_data_folder_that_is_not_there(room):
    assert_refused_before_anything_is_written(
        room / "nowhere", room / "run", f"{room / 'nowhere'}: there is no such folder", "check --data_path"
    )


@pytest.mark.parametrize("wrong", ["..", "imgs", "annotations/json"])
def test_a_data_folder_one_level_off(data, room, wrong):
    assert_refused_before_anything_is_written(
        data / wrong, room / "run", "TBX11K needs annotations/json/NAME.json", f"set --data_path {room / 'data'}"
    )


def test_a_data_folder_that_is_a_file(data, room):
    assert_refused_before_anything_is_written(data / "phantom.json", room / "run", data / "phantom.json", "--data_path")


def test_the_layout_of_another_data_set(phantom, room):
    assert_refused_before_anything_is_written(
        phantom, room / "run", "this looks like TBX11K: set --options dataset_file=tbx11k", dataset_file="coco"
    )


def test_a_split_that_does_not_exist(phantom, room):
    assert_refused_before_anything_is_written(
        phantom, room / "run", "no split 'TBX11K_tain'", "did you mean 'TBX11K_train'?", train_list="TBX11K_tain"
    )


def test_no_image_folder(data, room):
    shutil.rmtree(data / "imgs")
    assert_refused_before_anything_is_written(data, room / "run", data, "the image folder 'imgs' is not")


def test_images_that_are_missing(data, room):
    for name in ("tb", "sick", "health"):
        shutil.rmtree(data / "imgs" / name)
    assert_refused_before_anything_is_written(
        data, room / "run", annotations(data), "12 of 12 images are missing", "complete the download"
    )


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_text(path):
    path.write_text("<html>404 not found</html>")


def make_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("spoil", [truncate, make_text, make_empty])
def test_an_image_that_cannot_be_read(data, room, spoil, num_workers):
    if num_workers and spoil is not truncate:
        pytest.skip("the way of a message out of a worker is the same for all")
    image = first_image(data)
    spoil(image)
    outcome = call(*training(data, room / "run", **ONE_EPOCH, num_workers=num_workers))
    assert_refused(outcome, f"{image}: cannot be read as an image", f"of {annotations(data)}", "fetch the file anew")
    assert len(outcome.err.splitlines()) == 1


def test_an_image_of_another_size_than_recorded(data, room):
    edit(annotations(data), lambda content: [image.update(width=256, height=256) for image in content["images"]])
    outcome = call(*training(data, room / "run", **ONE_EPOCH))
    assert_refused(
        outcome, "has 128 x 128 pixels (width x height), but image id", "states 256 x 256", "put the original"
    )


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("", ["is not JSON"]),
        ("{]", ["is not JSON"]),
        ("[]", ["a COCO-format file is an object with the lists images, annotations, categories"]),
        ('{"images": []}', ["has no 'annotations'"]),
        ('{"images": {}, "annotations": [], "categories": []}', ["'images' must be a list"]),
        ('{"images": [], "annotations": [], "categories": []}', ["'images' is empty"]),
    ],
)
@pytest.mark.parametrize("which", ["train", "val"])
def test_an_annotation_file_that_is_not_coco(data, room, text, phrases, which):
    annotations(data, which).write_text(text)
    assert_refused_before_anything_is_written(data, room / "run", annotations(data, which), *phrases)


def first_box(**changes):
    return lambda content: content["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "phrases"),
    [
        (first_box(bbox=[5, 5, 0, 9]), ["1 of 8 boxes have no width or no height", "[5, 5, 0, 9] on tb/"]),
        (first_box(bbox=[500, 5, 9, 9]), ["1 of 8 boxes reach more than 1 px beyond their image", "128 x 128"]),
        (first_box(bbox=[1, 2, 3]), ["annotations[0]: 'bbox' must be a list [x, y, width, height]"]),
        (first_box(bbox=[float("nan")] * 4), ["1 of 8 boxes have numbers that are not finite"]),
        (first_box(category_id=9), ["1 of 8 annotations have a category_id that 'categories' does not list, first 9"]),
        (first_box(image_id=999), ["have a image_id that 'images' does not list, first 999"]),
        (lambda content: content["annotations"][0].pop("bbox"), ["annotations[0] has no 'bbox'"]),
        (lambda content: content["images"][0].pop("file_name"), ["images[0] has no 'file_name'"]),
        (lambda content: content["images"][1].update(id=content["images"][0]["id"]), ["ids occur more than once"]),
        (lambda content: content["images"][0].update(file_name="../../etc/passwd"), ["leave the image folder"]),
        (lambda content: content["images"].clear(), ["'images' is empty"]),
        (
            lambda content: content["categories"].append({"id": 7, "name": "nodule"}),
            ["category ids go up to 7 (nodule), but num_classes is 4; set --options num_classes=8"],
        ),
    ],
)
def test_annotations_that_cannot_be(data, room, change, phrases):
    edit(annotations(data), change)
    assert_refused_before_anything_is_written(data, room / "run", annotations(data), *phrases)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_not_there(phantom, room):
    for flag in ("--resume", "--pretrain_model_path"):
        outcome = call(*training(phantom, room / "run", flag, room / "no.pth"))
        assert_refused(outcome, f"{room / 'no.pth'}: no such checkpoint; check the path")
    outcome = call("--eval", "--resume", room / "no.pth", "--data_path", phantom)
    assert_refused(outcome, f"{room / 'no.pth'}: no such checkpoint; check the path")
    assert not (room / "run").exists()


def test_an_evaluation_without_a_checkpoint(phantom, room):
    assert_refused(call("--eval", "--data_path", phantom), "evaluation needs --resume CHECKPOINT, or --output_dir")
    outcome = call("--eval", "--data_path", phantom, "--output_dir", room)
    assert_refused(outcome, f"{room / 'best.pth'}: no such checkpoint")
    assert list(room.iterdir()) == []


def cut_short(path, source):
    path.write_bytes((source / "checkpoint.pth").read_bytes()[:100_000])


def write_text(path, _source):
    path.write_text("weights, honestly")


def write_nothing(path, _source):
    path.write_bytes(b"")


def write_a_list(path, _source):
    torch.save([1, 2, 3], path)


def write_other_keys(path, _source):
    torch.save({"state": 3, "meta": {}}, path)


class Payload:
    """What a malicious file would run."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


def write_malice(path, _source):
    torch.save({"model": {}, "extra": Payload()}, path)


@pytest.mark.parametrize(
    ("write", "phrase"),
    [
        (cut_short, "cannot be read as a checkpoint"),
        (write_text, "cannot be read as a checkpoint"),
        (write_nothing, "cannot be read as a checkpoint"),
        (write_malice, "cannot be read as a checkpoint"),
        (write_a_list, "holds a list, expected a dict with 'model'"),
        (write_other_keys, ""),
    ],
)
def test_a_file_that_is_no_checkpoint(trained, phantom, room, monkeypatch, write, phrase):
    monkeypatch.chdir(room)
    path = room / "x.pth"
    write(path, trained)
    for flag in ("--resume", "--pretrain_model_path"):
        assert_refused(call(*training(phantom, room / "run", flag, path)), f"{path}: ", phrase)
    evaluation = ["--eval", "--resume", path, "--data_path", phantom, "-c", CONFIG, "--options", *options()]
    assert_refused(call(*evaluation), f"{path}: ", phrase)
    assert [p.name for p in room.iterdir()] == ["x.pth"]  # no run folder, and no file of the payload


def test_an_own_checkpoint_that_is_cut_short_is_not_written_over(trained, phantom, room):
    run = copy_run(trained, room / "run")
    (run / "checkpoint.pth").unlink()
    cut_short(run / "checkpoint.pth", trained)
    before = snapshot(run)
    assert_refused(call(*training(phantom, run)), f"{run / 'checkpoint.pth'}: cannot be read as a checkpoint")
    assert snapshot(run) == before


def test_the_folder_of_a_run_of_another_model_is_left_as_it_is(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = snapshot(run)
    outcome = call(*training(phantom, run, num_queries=30))
    assert_refused(
        outcome, f"{run / 'checkpoint.pth'}: is a checkpoint of another model (num_queries 20 instead of 30)"
    )
    assert "another --output_dir" in outcome.err
    assert snapshot(run) == before


def test_a_checkpoint_of_another_model_is_not_resumed(trained, phantom, room):
    outcome = call(*training(phantom, room / "run", "--resume", trained / "best.pth", dec_layers=1))
    assert_refused(outcome, f"{trained / 'best.pth'}: is a checkpoint of another model (dec_layers 2 instead of 1)")
    assert not (room / "run").exists()


def test_a_checkpoint_of_other_parameter_groups_is_not_resumed(trained, phantom, room):
    more = {"param_dict_type": "ddetr_in_mmdet", "epochs": 3}
    outcome = call(*training(phantom, room / "run", "--resume", trained / "checkpoint.pth", **more))
    assert_refused(outcome, f"{trained / 'checkpoint.pth'}: its optimizer has other groups", "param_dict_type")


def test_a_checkpoint_of_another_model_is_not_evaluated(trained, phantom, room):
    config = ["-c", CONFIG, "--options", *options(dec_layers=1)]
    where = ["--data_path", phantom, "--output_dir", room / "eval"]
    outcome = call("--eval", "--resume", trained / "best.pth", *where, *config)
    assert_refused(outcome, f"{trained / 'best.pth'}: is a checkpoint of another model", "unexpected")
    assert not (room / "eval").exists()


def test_weights_of_another_width_are_no_pretraining(trained, phantom, room):
    more = {"hidden_dim": 64, "backbone": "resnet18"}
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", trained / "best.pth", **more))
    assert_refused(outcome, f"{trained / 'best.pth'}: only", "is it a DINO of the same backbone and width?")


def test_an_official_checkpoint_with_more_than_a_namespace_is_refused(trained, phantom, room):
    content = {"model": load(trained / "best.pth")["model"], "args": argparse.Namespace(hook=Payload())}
    torch.save(content, room / "x.pth")
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", room / "x.pth"))
    assert_refused(outcome, f"{room / 'x.pth'}: cannot be read as a checkpoint")


@pytest.mark.parametrize("weights", ["nothing.pth", "imagenett"])
def test_backbone_weights_that_are_not_there(phantom, room, weights):
    assert_refused_before_anything_is_written(
        phantom, room / "run", f"backbone_weights: {weights} is no file", backbone_weights=weights
    )


# --- the disk, the numbers, the signals ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["taken", "taken/run"])
def test_an_output_folder_that_cannot_be(phantom, room, name):
    (room / "taken").write_text("a file")
    assert_refused(call(*training(phantom, room / name)), f"{room / name}", "cannot be written", "another folder")
    assert (room / "taken").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(phantom, room):
    (room / "shut").mkdir(mode=0o500)
    assert_refused(call(*training(phantom, room / "shut/run")), "cannot be written (PermissionError")


def test_an_output_folder_inside_a_run_that_is_not_writable_keeps_the_old_report(trained, phantom, room):
    run = copy_run(trained, room / "run")
    (run / "info.txt").unlink()
    (run / "info.txt").mkdir()
    report = (run / "report.json").read_bytes()
    assert_refused(call("--eval", "--output_dir", run, "--data_path", phantom), run / "info.txt", "cannot be written")
    assert (run / "report.json").read_bytes() == report


def limit_file_size():
    """No file of more than a megabyte, as on a disk that is full: a checkpoint does not fit, the log does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def run_on_a_full_disk(call_it):
    """The outcome of a training whose checkpoints do not fit on the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        return call_it()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(trained, phantom, room, monkeypatch):
    run, command = room / "run", training(phantom, room / "run")
    train_one_epoch, epochs = main.train_one_epoch, []

    def stop_after_one(*args, **more):
        if epochs:
            raise KeyboardInterrupt
        epochs.append(train_one_epoch(*args, **more))

    monkeypatch.setattr(main, "train_one_epoch", stop_after_one)
    assert call(*command).code == 130
    monkeypatch.undo()
    before = (run / "checkpoint.pth").read_bytes()

    outcome = run_on_a_full_disk(partial(call, *command))
    assert_refused(outcome, "cannot be written", "the file that was there before is untouched", "Free some space")
    assert (run / "checkpoint.pth").read_bytes() == before
    assert not list(run.glob(".*")), "the torn file is gone"

    assert call(*command).code == 0
    assert losses(run)[-3:] == losses(trained)[-3:]
    ours, theirs = load(run / "checkpoint.pth")["ema"], load(trained / "checkpoint.pth")["ema"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_best_checkpoint_that_did_not_fit_is_written_when_the_run_goes_on(phantom, room, monkeypatch):
    """The run's own checkpoint is written last: were it first, it would claim a best one that is not there."""
    run, command = room / "run", training(phantom, room / "run", **ONE_EPOCH)
    assert_refused(run_on_a_full_disk(partial(call, *command)), "best.pth: cannot be written")
    assert not list(run.glob("*.pth"))
    assert call(*command).code == 0
    assert {path.name for path in run.glob("*.pth")} == {"best.pth", "checkpoint.pth"}


def test_a_log_that_cannot_be_written_is_told(room):
    from util.logger import RunLog

    (room / "log.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"log\.jsonl: cannot be written"):
        RunLog(room).row("train", loss=1.0)


def test_numbers_that_explode_stop_the_training_before_they_are_saved(trained, phantom, room):
    run = copy_run(trained, room / "run")
    before = (run / "checkpoint.pth").read_bytes()
    wild = {"epochs": 4, "lr": 1e30, "lr_backbone": 1e30, "warmup_steps": 0, "clip_max_norm": 0.0}
    outcome = call(*training(phantom, run, **wild))
    assert_refused(outcome, "epoch 2, after step", "not finite", "The last checkpoint is untouched", code=1)
    assert (run / "checkpoint.pth").read_bytes() == before


@pytest.mark.parametrize("name", ["class_embed.0.bias", "transformer.level_embed", "backbone.0.body.conv1.weight"])
def test_poisoned_weights_stop_the_training_at_its_first_step(trained, phantom, room, name):
    content = load(trained / "best.pth")
    for tensor in (content["model"][name], content["ema"][name]):
        tensor.view(-1)[0] = float("nan")
    torch.save(content, room / "x.pth")
    outcome = call(*training(phantom, room / "run", "--pretrain_model_path", room / "x.pth"))
    assert_refused(outcome, "epoch 0, after step 0", "not finite", code=1)
    assert not list((room / "run").glob("*.pth"))


def test_poisoned_weights_give_no_report(trained, phantom, room):
    content = load(trained / "best.pth")
    content["ema"]["backbone.0.body.conv1.weight"].fill_(float("nan"))
    torch.save(content, room / "x.pth")
    outcome = call("--eval", "--resume", room / "x.pth", "--data_path", phantom, "--output_dir", room / "eval")
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("error: ")
    assert "finite" in outcome.err or "nan" in outcome.err
    assert not (room / "eval/report.json").exists()


# --- processes of their own: slow, but the real thing ----------------------------------------------------------------


@pytest.mark.slow
def test_the_script_ends_with_the_code_and_the_message(phantom, room):
    outcome = call_apart("main.py", *training(phantom, room / "run", focal_alfa=1))
    assert_refused(outcome, "unknown key 'focal_alfa'")


@pytest.mark.slow
def test_an_ascii_terminal_takes_any_path(phantom, room):
    (room / "Daten ü").symlink_to(phantom)
    outcome = call_apart("main.py", *training("Daten ü", "Läufe"), cwd=room, env={"LC_ALL": "C"})
    assert outcome.code == 2  # main.py is not in this folder: see the next call
    outcome = call_apart(ROOT / "main.py", *training("Daten ü", "Läufe", **ONE_EPOCH), cwd=room, env={"LC_ALL": "C"})
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.slow
def test_a_full_disk_in_a_process_of_its_own(phantom, room):
    command = ["main.py", *training(phantom, room / "run", **ONE_EPOCH)]
    assert_refused(call_apart(*command, preexec_fn=limit_file_size), "cannot be written", "Free some space")


@pytest.mark.slow
def test_two_ranks_tell_a_mistake_once(phantom, room):
    outcome = torchrun(2, *training(phantom, room / "run", focal_alfa=1))
    assert outcome.code != 0
    assert outcome.err.count("unknown key 'focal_alfa'") == 1
    assert "Traceback" not in outcome.err.split("torch/distributed")[0]


@pytest.mark.slow
def test_a_mistake_that_one_of_two_ranks_meets_is_told(data, room):
    truncate(first_image(data, "val"))
    outcome = torchrun(2, *training(data, room / "run", **ONE_EPOCH))
    assert outcome.code != 0
    assert outcome.err.count("cannot be read as an image") == 1
