"""scripts/prepare_tbx11k.py: any download becomes the same folder, and nothing else is touched."""

import json
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.training import ONE_EPOCH, call, snapshot, training

pytest_plugins = ["tests.helpers.training_fixtures", "tests.helpers.prepare_fixtures"]


def images_of(root):
    return [path for path in (root / "imgs").rglob("*") if path.is_file()]


def deeper(official, folder):
    shutil.copytree(official, folder / "TBX11K/TBX11K")
    return folder


def zipped(official, folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "TBX11K.zip", "w") as archive:
        for path in sorted(official.rglob("*")):
            archive.write(path, Path("TBX11K") / path.relative_to(official))
    return folder / "TBX11K.zip"


def flat(official, folder):
    (folder / "images").mkdir(parents=True)
    for path in images_of(official):
        shutil.copy(path, folder / "images")
    for path in (official / "annotations/json").iterdir():
        shutil.copy(path, folder)
    return folder


def voc_only(official, folder):
    shutil.copytree(official / "imgs", folder / "JPEGImages")
    shutil.copytree(official / "annotations/xml", folder / "Annotations")
    shutil.copytree(official / "lists", folder / "ImageSets")
    return folder


LAYOUTS = {"official": lambda official, _: official, "deeper": deeper, "zip": zipped, "flat": flat}


def same_documents(official, out, tolerance=0.0):
    for path in sorted((official / "annotations/json").iterdir()):
        ours, theirs = (json.loads((root / f"annotations/json/{path.name}").read_text()) for root in (out, official))
        assert_same_document(ours, theirs, tolerance)


def assert_same_document(ours, theirs, tolerance=1e-4):
    keys = ("id", "file_name", "width", "height")
    assert [[image[k] for k in keys] for image in ours["images"]] == [[i[k] for k in keys] for i in theirs["images"]]
    assert ours["categories"] == theirs["categories"]
    assert len(ours["annotations"]) == len(theirs["annotations"])
    for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=tolerance)
        assert {**one, "bbox": 0} == {**other, "bbox": 0}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_same_folder_and_nothing_else_changes(official, tmp_path, ask, layout):
    source = LAYOUTS[layout](official, tmp_path / "source")
    before = snapshot(official.parent), snapshot(tmp_path)
    code, out, err = ask(source, "--output_dir", tmp_path / "out/data")
    assert (code, err) == (0, "")
    assert f"written: --data_path {tmp_path / 'out/data'}" in out
    after = {name: h for name, h in snapshot(tmp_path).items() if not name.startswith("out/data/")}
    assert (snapshot(official.parent), after) == before
    for folder in ("imgs", "annotations/json"):
        assert snapshot(tmp_path / "out/data" / folder) == snapshot(official / folder)
    assert sorted(path.name for path in (tmp_path / "out/data").iterdir()) == ["annotations", "imgs", "lists"]
    for path in (tmp_path / "out/data/lists").iterdir():
        assert path.read_text() == (official / "lists" / path.name).read_text()


@pytest.mark.parametrize("pack", [lambda source, _: source, zipped])
def test_xml_and_lists_alone_give_the_same_json(official, tmp_path, ask, pack):
    source, data = pack(voc_only(official, tmp_path / "source"), tmp_path / "zip"), tmp_path / "data"
    code, out, err = ask(source, "--output_dir", data, "--check")
    assert (code, err) == (0, "")
    assert "annotation files to build: TBX11K_train, TBX11K_train_only_tb, TBX11K_val" in out
    same_documents(official, data, tolerance=1e-4)
    assert snapshot(data / "imgs") == snapshot(official / "imgs")


def test_without_any_box_there_are_no_lists_of_those_with_boxes(official, tmp_path, ask):
    shutil.rmtree(voc_only(official, tmp_path / "source") / "Annotations")
    _, out, _ = ask(tmp_path / "source", "--output_dir", tmp_path / "data")
    assert "note: TBX11K_train_only_tb is not built: no image has a box\n" in out


def test_what_lacks_is_completed_in_place(official, tmp_path, ask):
    root = shutil.copytree(official, tmp_path / "data")
    before = snapshot(root)
    for name in ("TBX11K_val", "all_trainval", "TBX11K_train_only_tb"):
        (root / f"annotations/json/{name}.json").unlink()
    code, _, err = ask(root)
    assert code == 2
    assert "annotation files to build: TBX11K_train_only_tb, TBX11K_val, all_trainval); give --output_dir FOLDER" in err
    assert ask(root, "--output_dir", root)[0] == 0
    same_documents(official, root, tolerance=1e-4)
    assert snapshot(root).keys() == before.keys()
    assert ask(root)[0] == 0


def test_jpeg_for_png_lets_the_json_follow(official, tmp_path, ask):
    source = shutil.copytree(official, tmp_path / "source")
    for path in (source / "imgs").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    code, out, err = ask(source, "--output_dir", tmp_path / "data", "--check")
    assert (code, err) == (0, "")
    assert "images have another ending than listed" in out
    assert "0 errors" in out
    names = [
        i["file_name"] for i in json.loads((tmp_path / "data/annotations/json/all_train.json").read_text())["images"]
    ]
    assert {Path(name).suffix for name in names} == {".jpg"}


def yolo(official, folder, classes="classes.txt"):
    """images/{train,val}, labels/{train,val}; without lists."""
    for side in ("train", "val"):
        content = json.loads((official / f"annotations/json/TBX11K_{side}.json").read_text())
        for kind in ("images", "labels"):
            (folder / kind / side).mkdir(parents=True)
        for image in content["images"]:
            stem, (w, h) = Path(image["file_name"]).stem, (image["width"], image["height"])
            Image.open(official / "imgs" / image["file_name"]).save(folder / f"images/{side}/{stem}.jpg")
            boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            lines = [
                f"{a['category_id'] - 1} {(x + bw / 2) / w} {(y + bh / 2) / h} {bw / w} {bh / h}\n"
                for a in boxes
                for x, y, bw, bh in [a["bbox"]]
            ]
            (folder / f"labels/{side}/{stem}.txt").write_text("".join(lines))
    names = {
        "classes.txt": "Active Tuberculosis\nLatent-TB\nuncertain\n",
        "data.yaml": "train: images/train\nnc: 3\nnames:\n  0: ActiveTuberculosis\n  1: latent\n  2: uncertain\n",
        "data.yml": "names: ['ActiveTuberculosis', \"obsolete\", uncertain]\nnc: 3\n",
    }
    if classes:
        (folder / classes).write_text(names[classes])
    return folder


@pytest.mark.parametrize("classes", ["classes.txt", "data.yaml", "data.yml"])
def test_yolo_labels_give_the_same_boxes(official, tmp_path, ask, classes):
    code, out, err = ask(yolo(official, tmp_path / "source", classes), "--output_dir", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "note: train and val follow the folders of that name" in out
    for side in ("train", "val"):
        ours, theirs = (
            json.loads((root / f"annotations/json/TBX11K_{side}.json").read_text())
            for root in (tmp_path / "data", official)
        )
        for content in (ours, theirs):
            for image in content["images"]:
                image["file_name"] = str(Path(image["file_name"]).with_suffix(""))
            for box in content["annotations"]:
                box["area"] = 0
        assert_same_document(ours, theirs, tolerance=1e-4)


BOMB = "a: &a {x: latent}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}]}}\n" for a, b in pairwise("abcdefghijklm"))


@pytest.mark.parametrize(
    ("spoil", "phrase"),
    [
        (lambda root: (root / "classes.txt").unlink(), "has YOLO labels, but no classes.txt"),
        (lambda root: (root / "classes.txt").write_text("cat\ndog\n"), "the class 'cat' is none of ActiveTuberculosis"),
        (lambda root: (root / "classes.txt").write_text("latent\n" * 3), "a class from 0 to 0"),
        (lambda root: as_yaml(root, "names: [a\n b: c"), "data.yaml: cannot be read as YAML (while parsing a flow"),
        (lambda root: as_yaml(root, "names: [no, 3]\n"), "the class 'False' is none of ActiveTuberculosis"),
        (lambda root: as_yaml(root, "names: latent\n"), "data.yaml: names no class"),
        (lambda root: as_yaml(root, "- names\n"), "data.yaml: names no class"),
        (lambda root: as_yaml(root, BOMB), "(it has aliases, or more than 10 levels)"),
        (lambda root: as_yaml(root, "[" * 60_000), "(it has aliases, or more than 10 levels)"),
        (lambda root: as_yaml(root, "#" * 70_000), "(it has more than 65536 characters)"),
        (lambda root: as_yaml(root, "names: !!int ''"), "data.yaml: cannot be read as YAML ("),
        (lambda root: label_of(root).write_text("0 .5 .5 1.5 .1\n"), "line 1 must be 'class cx cy w h'"),
        (lambda root: label_of(root).write_text("0 .5 nan .5 .1\n"), "line 1 must be 'class cx cy w h'"),
        (lambda root: shutil.rmtree(root / "images/val"), "nothing tells training from validation"),
        (lambda root: next((root / "images").rglob("tb*.jpg")).write_text("x"), "is no image"),
    ],
)
def test_labels_that_cannot_be_are_refused_and_nothing_is_written(official, tmp_path, ask, spoil, phrase):
    source = yolo(official, tmp_path / "source")
    if "0 to 0" in phrase:
        label_of(source).write_text("1 .5 .5 .5 .5\n")
        (source / "classes.txt").write_text("latent\n")
    else:
        spoil(source)
    code, _, err = ask(source, "--output_dir", tmp_path / "data")
    assert code == 2
    assert phrase in err
    assert not (tmp_path / "data").exists()


def as_yaml(root, content):
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(content)


def label_of(root):
    return next(path for path in (root / "labels").rglob("tb*.txt") if path.read_text())


def test_a_dry_run_writes_nothing(official, tmp_path, ask):
    source = voc_only(official, tmp_path / "source")
    before = snapshot(tmp_path)
    code, out, _ = ask(source, "--output_dir", tmp_path / "data", "--dry_run")
    assert code == 0
    assert f"would write {len(images_of(official))} images and 10 annotation files to {tmp_path / 'data'}" in out
    assert snapshot(tmp_path) == before


def test_the_table_names_every_difference_from_the_published_counts(official, ask):
    code, out, _ = ask(official)
    assert code == 0
    num_tb = len(list((official / "imgs/tb").iterdir()))
    assert f"imgs/tb: {num_tb} images, published 800: {800 - num_tb} missing" in out
    assert "TBX11K_train: images 23 instead of 6600, with boxes " in out
    assert "every count is the published one" not in out


@pytest.mark.data
@pytest.mark.slow
def test_the_published_counts_are_those_of_the_real_files(shared, ask):
    code, out, _ = ask(shared / "tbx11k")
    assert code == 0
    assert out.count("   the same\n") == 10
    assert not [line for line in out.splitlines() if line.startswith(("TBX11K_", "all_")) and " instead of " in line]


def test_leaked_images_leave_the_training_lists(official, tmp_path, ask):
    root = shutil.copytree(official, tmp_path / "data")
    lists = [
        [i["file_name"] for i in json.loads((root / f"annotations/json/TBX11K_{side}.json").read_text())["images"]]
        for side in ("train", "val")
    ]
    ours, theirs = ([name for name in names if name.startswith("sick/")] for names in lists)
    shutil.copy(root / "imgs" / theirs[0], root / "imgs" / ours[0])
    Image.open(root / "imgs" / theirs[1]).convert("L").save(root / "imgs" / ours[1], compress_level=9)
    code, out, _ = ask(root, "--output_dir", root, "--drop_leaked")
    assert code == 0
    assert "1 training images are byte-identical to a validation image" in out
    assert "1 training images are nearly the picture of a validation image" in out
    assert "written: TBX11K_train_clean, 21 images: --options train_list=TBX11K_train_clean" in out
    content = json.loads((root / "annotations/json/TBX11K_train_clean.json").read_text())
    kept = [name for name in lists[0] if name not in ours[:2]]
    assert [image["file_name"] for image in content["images"]] == kept
    assert (root / "lists/TBX11K_train_clean.txt").read_text().split() == kept
    whole = json.loads((root / "annotations/json/TBX11K_train.json").read_text())
    assert content["annotations"] == whole["annotations"]


@pytest.mark.parametrize("held", ["notes.txt", "imgs/x.png"])
def test_a_folder_that_holds_something_is_left_alone(official, tmp_path, ask, held):
    (tmp_path / "data" / held).parent.mkdir(parents=True)
    (tmp_path / "data" / held).write_text("mine")
    before = snapshot(tmp_path)
    code, _, err = ask(official, "--output_dir", tmp_path / "data")
    assert code == 2
    assert "is not empty" in err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (Path.exists, "there is no such folder or zip file"),
        (lambda path: path.mkdir(), "holds nothing of TBX11K"),
        (lambda path: path.write_text("x"), "is neither a folder nor a zip file"),
    ],
)
def test_what_is_no_tbx11k_is_refused(tmp_path, ask, make, phrase):
    make(tmp_path / "x")
    for flags in ([], ["--check"], ["--output_dir", tmp_path / "data"]):
        code, _, err = ask(tmp_path / "x", *flags)
        assert code == 2
        assert phrase in err
    assert not (tmp_path / "data").exists()


@pytest.mark.data
@pytest.mark.slow
def test_the_real_json_is_rebuilt_from_the_800_xml(shared, tmp_path, ask):
    real = shared / "tbx11k/annotations"
    (tmp_path / "source/lists").mkdir(parents=True)
    (tmp_path / "source/xml").symlink_to(real / "xml")
    documents = {path.stem: json.loads(path.read_text()) for path in (real / "json").iterdir()}
    for name, content in documents.items():
        lines = "".join(f"{image['file_name']}\n" for image in content["images"])
        (tmp_path / f"source/lists/{name}.txt").write_text(lines if not name.endswith("_only_tb") else "")
    for path in (tmp_path / "source/lists").glob("*_only_tb.txt"):
        path.unlink()
    assert ask(tmp_path / "source", "--output_dir", tmp_path / "data", "--follow_links")[0] == 0
    for name, content in documents.items():
        ours = json.loads((tmp_path / f"data/annotations/json/{name}.json").read_text())
        assert_same_document(ours, content, tolerance=1e-4)


@pytest.mark.slow
def test_a_prepared_folder_trains_and_the_log_tells_of_leaks(phantom, tmp_path, ask):
    root = tmp_path / "data"
    assert ask(voc_only(phantom, tmp_path / "source"), "--output_dir", root)[0] == 0
    train, val = (json.loads((root / f"annotations/json/TBX11K_{side}.json").read_text()) for side in ("train", "val"))
    first = next(image["file_name"] for image in train["images"] if image["file_name"].startswith("sick/"))
    last = val["images"][-1]["file_name"]
    (root / "imgs" / first).unlink()
    shutil.copy(root / "imgs" / last, root / "imgs" / first)
    outcome = call(*training(root, tmp_path / "run", **ONE_EPOCH))
    assert outcome.code == 0, outcome.err
    assert f"warning: 1 training images are byte-identical to a validation image: {first} = {last}; " in outcome.out


def test_a_full_disk_leaves_nothing_and_what_a_killed_run_left_is_begun_anew(official, tmp_path, ask, monkeypatch):
    def fill(_, name, target):
        if name.endswith("s1.png") or name.startswith("imgs/sick"):
            raise OSError(28, "No space left on device")
        target.write_bytes(b"x")

    with monkeypatch.context() as patched:
        patched.setattr("datasets.prepare.tree.Folder.put", fill)
        code, _, err = ask(official, "--output_dir", tmp_path / "data")
    assert code == 2
    assert "cannot be written (No space left on device); free some space" in err
    assert not (tmp_path / "data").exists()
    (tmp_path / "data/.unfinished/imgs/tb").mkdir(parents=True)
    (tmp_path / "data/.unfinished/imgs/tb/tb0001.png").write_text("half")
    assert ask(official, "--output_dir", tmp_path / "data")[0] == 0
    assert snapshot(tmp_path / "data/imgs") == snapshot(official / "imgs")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["annotations", "imgs", "lists"]
