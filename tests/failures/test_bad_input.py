"""What a stranger gets wrong with options, configs and data: one clear message each, code 2, nothing written."""

import json
import shutil

import pytest
import torch
from PIL import Image

import main
from tests.helpers.training import CONFIG, ONE_EPOCH, annotations, assert_refused, call, first_image, training, truncate

pytest_plugins = ["tests.helpers.training_fixtures"]


def assert_refused_before_anything_is_written(data, folder, *phrases, **changes):
    assert_refused(call(*training(data, folder, **{**ONE_EPOCH, **changes})), *phrases)
    assert not folder.exists()


def edit(path, change):
    """Let `change` spoil the content of a json file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


# --- the command line and the config ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "phrases"),
    [
        ("focal_alfa=0.5", ["unknown key 'focal_alfa'", "did you mean 'focal_alpha'?"]),
        ("xyzzy=1", ["unknown key 'xyzzy'", "util/config/schema.py"]),
        ("dn_scalar=100", ["unknown key 'dn_scalar'", "use dn_number"]),
        ("lr=fast", ["lr must be float, got 'fast'"]),
        ("num_queries=20.5", ["num_queries must be int, got 20.5"]),
        ("use_ema=yes", ["use_ema must be bool, got 'yes'"]),
        ("focal_alpha=75", ["focal_alpha must lie in [0, 1], got 75"]),
        ("lr=nan", ["lr must be"]),
        ("lr=1e999", ["lr must be"]),
        ("backbone=resnet51", ["backbone must be one of", "'resnet50'", "got 'resnet51'"]),
        ("num_queries=3000000", ["num_queries must lie in [1, 20000], got 3000000"]),
        ("batch_size=0", ["batch_size must lie in [1, 4096], got 0"]),
        ("ema_decay=1.0", ["ema_decay 1 would never follow the weights"]),
        ("num_workers=-1", ["num_workers must lie in [0, 256], got -1"]),
        ("num_workers=100000", ["num_workers must lie in [0, 256], got 100000"]),
        ("lr_drop=[3,1]", ["lr_drop [3, 1] must be in rising order"]),
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
        ("_base_ = 5\n", ["_base_ must be the name of a file or a list of names, got 5"]),
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
    assert_refused(call(*[word for pair in given.items() for word in pair]), "training needs --config_file CONFIG and")


def test_an_unknown_flag_and_a_missing_data_path_end_with_code_2(phantom, room):
    for arguments in ([*training(phantom, room / "run"), "--learning_rate", "3"], ["-c", CONFIG]):
        outcome = call(*arguments)
        assert outcome.code == 2
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
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


def test_a_folder_that_may_not_be_entered(phantom, room, monkeypatch):
    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied", "shut/annotations")

    monkeypatch.setattr(main, "build_splits", refuse)
    outcome = call(*training(phantom, room / "run"))
    assert_refused(outcome, "shut/annotations: Permission denied; check the permissions of the file")


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


def make_text(path):
    path.write_text("<html>404 not found</html>")


def make_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize(("spoil", "reason"), [(make_text, "no image"), (make_empty, "empty")])
def test_a_file_that_is_no_image(data, room, spoil, reason, which):
    image = first_image(data, which)
    spoil(image)
    found = f"images cannot be read: {image.relative_to(data / 'imgs')} ({reason}); download these files again"
    assert_refused_before_anything_is_written(data, room / "run", annotations(data, which), found)


def test_an_image_that_ends_in_the_middle(data, room):
    image = first_image(data)
    truncate(image)
    found = f"1 of 12 images cannot be read: {image.relative_to(data / 'imgs')} ("
    assert_refused_before_anything_is_written(
        data, room / "run", annotations(data), found, "download these files again"
    )


def test_an_image_of_another_size_than_recorded(data, room):
    edit(annotations(data), lambda content: [image.update(width=256, height=256) for image in content["images"]])
    size = "(128 x 128 instead of 256 x 256)"
    assert_refused_before_anything_is_written(
        data, room / "run", annotations(data), "12 of 12 images have another size", size, "put the original images back"
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
        (first_box(bbox=[1, 2, 3, 10**400]), ["annotations[0]: 'bbox' must be a list [x, y, width, height]"]),
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


def test_a_list_with_unlabelled_extras_is_refused_unless_it_is_wanted(data, room):
    name, path = "extra/mc+shenzhen/train/CHNCXR_0001_1.png", data / "annotations/json/all_train.json"
    (data / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((128, 128), 50).save(data / "imgs" / name)
    content = json.loads((data / "annotations/json/TBX11K_train.json").read_text())
    content["images"].append({**content["images"][0], "id": 999, "file_name": name})
    path.write_text(json.dumps(content))
    outcome = call(*training(data, room / "run", **ONE_EPOCH, train_list="all_train"))
    assert_refused(
        outcome, path, "1 extra images of all_train show tuberculosis by their names but have no box, 14.3 % of",
        "--options allow_unlabelled_extras=True",
    )  # fmt: skip
    assert not (room / "run").exists()
    wanted = call(*training(data, room / "run", **ONE_EPOCH, train_list="all_train", allow_unlabelled_extras=True))
    assert wanted.code == 0, wanted.err
    assert "warning: all_train: 1 extra images of all_train show tuberculosis" in wanted.out


@pytest.mark.parametrize("weights", ["nothing.pth", "imagenett"])
def test_backbone_weights_that_are_not_there(phantom, room, weights):
    assert_refused_before_anything_is_written(
        phantom, room / "run", f"backbone_weights: {weights} is no file", backbone_weights=weights
    )
