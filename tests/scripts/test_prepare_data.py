"""scripts/prepare_data.py: annotations of any format become the same COCO lists, or one message says why not."""

import json
import shutil
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.annotations.layout import COCO
from scripts import prepare_data
from tests.helpers import data_layouts as layouts
from tests.helpers.training import snapshot
from util.distributed.exit_codes import run_to_exit_code

COLUMNS = ("image_ids", "file_names", "sizes", "first_box", "xywh", "labels", "area", "is_crowd")


@pytest.fixture
def ask(capsys):
    """Run the script: exit code, standard output, standard error."""

    def run(*arguments):
        code = run_to_exit_code(partial(prepare_data.main, [str(argument) for argument in arguments]))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def assert_same_lists(data, other):
    for side in ("train", "val"):
        split, expected = (COCO.load(root, side) for root in (data, other))
        for column in COLUMNS:
            assert np.array_equal(getattr(split, column), getattr(expected, column)), (side, column)
        assert split.names == expected.names == layouts.NAMES
        for i in range(split.num_images):
            assert split.path(i).read_bytes() == expected.path(i).read_bytes()


@pytest.mark.parametrize("name", [*layouts.CONVERTED, *layouts.DIRECT])
def test_every_format_gives_the_same_lists_and_nothing_else_is_written(name, tmp_path, ask):
    source = {**layouts.CONVERTED, **layouts.DIRECT}[name](tmp_path / "source")
    expected = layouts.plain(tmp_path / "plain")
    before = snapshot(tmp_path)
    code, out, err = ask(source, "--output_dir", tmp_path / "out")
    assert (code, err) == (0, "")
    data = tmp_path / "out"
    assert f"--data_path {data} --options dataset_file=coco train_list=train val_list=val" in out
    assert "train       7           6     18      12           6\n" in out
    assert_same_lists(data, expected)
    assert {k: v for k, v in snapshot(tmp_path).items() if not k.startswith("out/")} == before
    assert sorted(path.name for path in data.iterdir()) == ["annotations", "train", "val"]


@pytest.mark.parametrize("name", ["yolo", "voc_folders", "csv", "roboflow"])
def test_a_zip_file_is_read_as_the_folder_is(name, tmp_path, ask):
    source = {**layouts.CONVERTED, **layouts.DIRECT}[name](tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted(source.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path))
    assert ask(tmp_path / "data.zip", "--output_dir", tmp_path / "out")[0] == 0
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))


@pytest.mark.parametrize("name", layouts.UNDIVIDED)
def test_one_list_is_divided_by_content(name, tmp_path, ask):
    """In each format in the same way; equal files stay on one side, and the names of files do not matter."""
    source = layouts.UNDIVIDED[name](tmp_path / "source")
    code, out, err = ask(source, "--output_dir", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "note: divided into 8 images for training and 2 for validation by their content, seed 0" in out
    sides = {side: set(COCO.load(tmp_path / "out", side).file_names.tolist()) for side in ("train", "val")}
    assert sides["train"] | sides["val"] == set(layouts.ALL)
    assert not sides["train"] & sides["val"]
    reference = tmp_path / "reference"
    assert ask(layouts.UNDIVIDED["csv_one_list"](tmp_path / "csv"), "--output_dir", reference)[0] == 0
    assert sides["val"] == set(COCO.load(reference, "val").file_names.tolist())


def test_the_share_and_the_seed_of_the_division_can_be_chosen(tmp_path, ask):
    source = layouts.UNDIVIDED["fiftyone"](tmp_path / "source")
    chosen = []
    for seed in range(4):
        assert ask(source, "--out", tmp_path / f"out{seed}", "--val_fraction", 0.5, "--seed", seed)[0] == 0
        chosen.append(tuple(COCO.load(tmp_path / f"out{seed}", "val").file_names.tolist()))
    assert {len(names) for names in chosen} <= {4, 5}
    assert len(set(chosen)) > 1
    assert "must be between 0 and 1" in ask(source, "--val_fraction", 1)[2]
    lists = layouts.CONVERTED["voc"](tmp_path / "voc")
    assert "leave --val_fraction out" in ask(lists, "--out", tmp_path / "v", "--val_fraction", 0.5)[2]


def test_equal_files_are_on_one_side(tmp_path, ask):
    source = layouts.UNDIVIDED["csv_one_list"](tmp_path / "source")
    rows = (source / "boxes.csv").read_text().splitlines()
    for i in range(6):
        shutil.copy(source / "images/b2.png", source / f"images/z{i}.png")
        rows += [row.replace("b2.png", f"z{i}.png") for row in rows if row.startswith("b2.png")]
    (source / "boxes.csv").write_text("\n".join(rows))
    for seed in range(5):
        assert ask(source, "--out", tmp_path / f"out{seed}", "--seed", seed)[0] == 0
        names = set(COCO.load(tmp_path / f"out{seed}", "val").file_names.tolist())
        assert len(names & {"b2.png", *(f"z{i}.png" for i in range(6))}) in (0, 7)


def test_a_folder_that_training_reads_is_named_so_and_checked(tmp_path, ask):
    data = layouts.DIRECT["roboflow"](tmp_path / "data")
    code, out, _ = ask(data)
    assert code == 0
    assert f"{data}: training reads it as it is: --data_path {data} --options dataset_file=coco" in out
    code, out, _ = ask(data, "--check")
    assert (code, out) == (0, "checked: 0 errors, 0 warnings, 0 notes\n")


@pytest.mark.parametrize("name", ["coco2017", "roboflow", "fiftyone_folders", "one_images_folder"])
def test_leaked_images_leave_the_training_list(name, tmp_path, ask):
    data = layouts.DIRECT[name](tmp_path / "data")
    leaked = COCO.load(data, "train").path(4)
    shutil.copy(COCO.load(data, "val").path(0), leaked)
    code, out, _ = ask(data, "--output_dir", data, "--drop_leaked")
    assert code == 0
    assert "scripts/prepare_data.py --drop_leaked writes lists without them" in out
    clean = next(word for word in out.split() if word.startswith("train_list=") and word.endswith("_clean"))
    names = COCO.load(data, clean.removeprefix("train_list=")).file_names.tolist()
    assert names == [n for n in layouts.TRAIN if n != leaked.name]
    assert ask(data, "--check")[0] == 0
    assert ask(data, "--output_dir", tmp_path / "out")[0] == 0


def test_without_a_folder_to_write_it_says_what_it_would_write(tmp_path, ask):
    source = layouts.yolo(tmp_path / "source")
    before = snapshot(tmp_path)
    for flags in ([], ["--check"]):
        code, _, err = ask(source, *flags)
        assert code == 2
        assert "as it is; give --output_dir FOLDER to write 10 images and 2 annotation files" in err
    code, out, _ = ask(source, "--output_dir", tmp_path / "out", "--dry_run")
    assert code == 0
    assert f"would write 10 images and 2 annotation files to {tmp_path / 'out'}" in out
    assert snapshot(tmp_path) == before


def test_an_interrupted_conversion_leaves_no_annotation_file(tmp_path, ask, monkeypatch):
    source = layouts.yolo(tmp_path / "source")
    copy_to = prepare_data.Tree.__args__[0].copy_to

    def stop(tree, name, target):
        if target.name == "c2.png":
            raise OSError(28, "No space left on device")
        copy_to(tree, name, target)

    monkeypatch.setattr(prepare_data.Tree.__args__[0], "copy_to", stop)
    code, _, err = ask(source, "--output_dir", tmp_path / "out")
    assert code != 0
    assert "cannot be written (No space left on device)" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["yolo", "voc", "csv", "roboflow"])
def test_no_message_is_about_another_data_set(name, tmp_path, ask):
    source = {**layouts.CONVERTED, **layouts.DIRECT}[name](tmp_path / "source")
    outputs = [ask(source, "--output_dir", tmp_path / "out", "--check"), ask(source)]
    shutil.rmtree(source / "images", ignore_errors=True)
    shutil.rmtree(source / "JPEGImages", ignore_errors=True)
    outputs += [ask(source, "--out", tmp_path / "new"), ask(tmp_path / "none"), ask(tmp_path / "new")]
    for _, out, err in outputs:
        assert "tbx11k" not in (out + err).lower()
        assert "tubercul" not in (out + err).lower()


def test_several_formats_in_one_folder_are_an_error_that_names_them(tmp_path, ask):
    source = layouts.csv_lists(layouts.yolo(tmp_path / "source"), images="images/all")
    shutil.rmtree(source / "images/all")
    code, _, err = ask(source, "--out", tmp_path / "out")
    assert code == 2
    assert "in several formats: Ultralytics YOLO (data.yaml, labels/train/a1.txt); CSV (train.csv, val.csv)" in err
    assert "choose one: --format yolo or csv" in err
    for kind in ("yolo", "csv"):
        assert ask(source, "--out", tmp_path / kind, "--format", kind)[0] == 0
        assert_same_lists(tmp_path / kind, layouts.plain(tmp_path / f"plain_{kind}"))


def test_two_images_of_one_name_keep_their_folders(tmp_path, ask):
    source = tmp_path / "source"
    for folder in ("north", "south"):
        layouts.coco(source, images=f"images/{folder}", annotations=f"{folder}.json")
        (source / f"{folder}.json").unlink()
    for name in ("north/a1.png", "south/a1.png"):
        assert (source / "images" / name).is_file()
    text = "file,x1,y1,x2,y2,label\nnorth/a1.png,1,1,9,9,cell\nsouth/a1.png,1,1,9,9,cell\nsouth/a2.png,,,,,\n"
    (source / "boxes.csv").write_text(text)
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    names = [n for s in ("train", "val") for n in COCO.load(tmp_path / "out", s).file_names.tolist()]
    assert set(names) == {"images/north/a1.png", "images/south/a1.png", "a2.png"}


# How each format is spoilt, and the message


def spoilt(tmp_path, ask, name, spoil):
    source = layouts.CONVERTED[name](tmp_path / "source")
    spoil(source)
    code, out, err = ask(source, "--output_dir", tmp_path / "out")
    if code:
        assert code == 2
        assert err.count("error: ") == 1
        assert not (tmp_path / "out").exists()
    return out + err


def write(name, text, mode="w", encoding="utf-8"):
    def spoil(root):
        with (root / name).open(mode, encoding=encoding) as file:
            file.write(text)

    return spoil


def remove(name):
    return lambda root: (root / name).unlink()


A2 = "labels/train/a2.txt"
CASES = [
    ("yolo", write(A2, "5 .5 .5 .2 .2\n"), "a2.txt: line 1 must be 'class cx cy w h', a class from 0 to 1 and shares"),
    ("yolo", write(A2, "-1 .5 .5 .2 .2\n"), "a class from 0 to 1"),
    ("yolo", write(A2, "0.5 .5 .5 .2 .2\n"), "a class from 0 to 1"),
    ("yolo", write(A2, "0 .5 .5 .2\n"), "got '0 .5 .5 .2'; correct the file"),
    ("yolo", write(A2, "0 .5 .5 .2 .2 .9\n"), "line 1 must be"),
    ("yolo", write(A2, "0 .5 .5 .2 x\n"), "line 1 must be"),
    ("yolo", write(A2, "0 .5 .5 .2 nan\n"), "line 1 must be"),
    ("yolo", write(A2, "0 30 30 10 10\n"), "shares of the image"),
    ("yolo", write("labels/train/zz.txt", "0 .5 .5 .2 .2\n"), "1 label files have no image: labels/train/zz.txt; add"),
    ("yolo", remove("data.yaml"), "no data.yaml or classes.txt that names the classes; write classes.txt"),
    ("yolo", write("data.yaml", "train: images/train\nval: images/val\n"), "data.yaml: names no class"),
    ("yolo", write("data.yaml", "names: [cell, platelet]\nnc: 3\n"), "nc is 3, but there are 2 names"),
    ("yolo", write("data.yaml", "names: {a: cell}\n"), "the keys of 'names' must be the numbers of the classes"),
    ("yolo", write("data.yaml", "names: [a, b]\ntrain: pics\nval: images/val\n"), "names 'pics', which is not there"),
    ("yolo", write("data.yaml", "names: [a, b]\ntrain: labels/train\n"), "'labels/train' holds no image"),
    ("yolo", write("data.yaml", "names: [a\n"), "data.yaml: cannot be read as YAML"),
    ("voc", write("Annotations/a1.xml", "<annotation><object>"), "a1.xml: is not XML"),
    ("voc", write("Annotations/a1.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>"), "or with declarations"),
    (
        "voc",
        write("Annotations/a1.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", encoding="utf-16"),
        "or with declarations",
    ),
    ("voc", write("Annotations/zz.xml", layouts.voc_xml("zz.png", [])), "1 images that it describes are not there: zz"),
    ("voc", write("Annotations/a1.xml", layouts.voc_xml("a1.png", [], (32, 64))), "(64 x 64 instead of 32 x 64)"),
    ("voc", write("Annotations/a1.xml", layouts.voc_xml("a1.png", [(1, (5, 5, -1, 3))])), "no width or no height"),
    ("voc", write("Annotations/a1.xml", layouts.voc_xml("a1.png", [(1, ("x", 5, "x", 3))])), "xmin must be a number"),
    (
        "voc",
        write("Annotations/a1.xml", layouts.voc_xml("a1.png", [(1, (1, 1, 3, 3))]).replace("cell", " ")),
        "the category '' is empty",
    ),
    ("voc", write("ImageSets/Main/val.txt", "c1\nnone\n"), "val.txt: 1 images that it describes are not there: none"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nzz.png,1,1,5,5,cell\n"), "are not there: zz.png"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,1,1,five,5,cell\n"), "line 2: the corners must be four"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,1,1,inf,5,cell\n"), "line 2: the corners must be four"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,1,,5,5,cell\n"), "line 2: the corners must be four"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,5,1,1,5,cell\n"), "line 2: the box 5, 1, 1, 5 has no"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,1,1,5,5,\n"), "line 2 has a box without a label"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\n,1,1,5,5,cell\n"), "line 2 names no image"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,1,1\n"), "line 2 has 3 cells, expected 6"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\nc1.png,.1,.1,.5,.5,cell\n"), "all corners are in [0, 1]"),
    ("csv", write("val.csv", 'file,x1,y1,x2,y2,label\n"c1.png,1,1,5,5,cell\n'), "cannot be read as CSV"),
    ("csv", write("val.csv", "file,x1,y1,x2,y2,label\n"), "has a header and no row"),
    (
        "csv",
        write("val.csv", "file,x1,y1,x2,y2,label,split\nc1.png,1,1,5,5,cell,fold3\n"),
        "line 2: the split must be train, val or test, got 'fold3'",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "phrase"), CASES)
def test_annotations_that_cannot_be_are_named_and_nothing_is_written(name, spoil, phrase, tmp_path, ask):
    assert phrase in spoilt(tmp_path, ask, name, spoil)


WITHOUT_WIDTH = [
    ("yolo", write(A2, "0 .5 .5 0 .1\n0 .5 .5 .1 .1\n")),
    ("voc", write("Annotations/a2.xml", layouts.voc_xml("a2.png", [(1, (5, 5, 0, 3)), (1, (5, 5, 2, 3))]))),
    ("csv", write("train.csv", "file,x1,y1,x2,y2,label\na2.png,5,5,5,8,cell\na2.png,5,5,7,8,cell\n")),
]


@pytest.mark.parametrize(("name", "spoil"), WITHOUT_WIDTH)
def test_boxes_without_width_are_left_out_in_every_format(name, spoil, tmp_path, ask):
    output = spoilt(tmp_path, ask, name, spoil)
    assert "error" not in output
    split = COCO.load(tmp_path / "out", "train")
    position = split.file_names.tolist().index("a2.png")
    assert split.num_empty.tolist()[position] == 1
    assert len(split.xywh[split.boxes_of(position)]) == 1


NOTES = [
    ("yolo", write(A2, "0 .5 .5 .2 .2\n" * 2), "1 boxes repeat another one of their image and were left out"),
    ("yolo", remove("labels/train/a1.txt"), "2 images have no label file: taken as images without a box"),
    ("yolo", write("data.yaml", "names: [a, b]\ntrain: images\nval: images\n"), "same images for train and val"),
    ("voc", remove("Annotations/a1.xml"), "1 images have no xml file: taken as images without a box"),
    ("voc", write("ImageSets/Main/val.txt", "c1\n"), "2 images have an xml file and are in no list: left out"),
    (
        "voc",
        write("Annotations/a1.xml", layouts.voc_xml("a1.png", [(1, (1, 1, 5, 5))]).replace("t>0", "t>1")),
        "1 boxes are marked as difficult: taken like any other",
    ),
    ("csv", write("val.csv", "c1.png,1,1,5,5,cell\nc1.png,1,1,5,5,cell\n"), "1 rows repeat another one"),
    ("csv", write("val.csv", "c1.png,1,1,5,5,cell\n"), "2 images are in no row and were left out: images/c2.png"),
    ("csv", write("val.csv", "c1.png,1,1,5,5,célula\n", encoding="latin-1"), "was read as Latin-1"),
]


@pytest.mark.parametrize(("name", "spoil", "phrase"), NOTES)
def test_what_is_taken_in_a_certain_way_is_said(name, spoil, phrase, tmp_path, ask):
    output = spoilt(tmp_path, ask, name, spoil)
    assert f"{phrase}" in output
    assert "note: " in output
    assert "error" not in output


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_encodings_and_usual_column_names_are_understood(delimiter, encoding, tmp_path, ask):
    header = ["filename", "xmin", "ymin", "xmax", "ymax", "class"]
    source = layouts.csv_lists(tmp_path / "source", delimiter=delimiter, encoding=encoding, header=header)
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))


def test_a_column_of_a_csv_may_name_the_split(tmp_path, ask):
    source = layouts.csv_lists(tmp_path / "source")
    sides = {"train": "train", "val": "valid"}
    rows = [[*row, sides[side]] for side, names in layouts.LISTS.items() for row in layouts.csv_rows(names)]
    for side in sides:
        (source / f"{side}.csv").unlink()
    lines = [",".join([*layouts.HEADER, "split"]), *(",".join(map(str, row)) for row in rows)]
    (source / "all.csv").write_text("\n".join(lines))
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))


def test_columns_that_are_unknown_are_named_with_those_expected(tmp_path, ask):
    source = layouts.csv_lists(tmp_path / "source", files="x.csv", header=["a", "b", "c", "d", "e", "f"])
    err = ask(source, "--out", tmp_path / "out")[2]
    assert "columns file,x1,y1,x2,y2,label; the columns of x.csv are a, b, c, d, e, f" in err


def test_a_validation_image_is_never_taken_from_the_folder_of_training(tmp_path, ask):
    source = layouts.coco(tmp_path / "source", images="images/{}", annotations="lists/{}.json")
    shutil.move(source / "images/val/c1.png", source / "images/train/c1.png")
    code, _, err = ask(source, "--out", tmp_path / "out")
    assert code == 2
    assert "val.json: 1 images that it describes are not there: c1.png" in err


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return {name: layouts.CONVERTED[name](root / name) for name in ("yolo", "voc", "csv")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("yolo", A2),
        ("yolo", "data.yaml"),
        ("voc", "Annotations/a1.xml"),
        ("csv", "train.csv"),
        ("voc", "ImageSets/Main/val.txt"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_change_of_a_file_ends_in_anything_but_lists_or_one_message(small, name, file, data):
    path = small[name] / file
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 20)))
    changed = content[:start] + data.draw(st.binary(max_size=12)) + content[stop:]
    path.unlink()
    path.write_bytes(changed)
    try:
        code = run_to_exit_code(partial(prepare_data.main, [str(small[name]), "--out", "out", "--dry_run"]))
    finally:
        path.write_bytes(content)
    assert code in (0, 2)
    assert not Path("out").exists()


def test_ids_and_all_keys_of_a_coco_list_are_kept(tmp_path, ask):
    source = layouts.DIRECT["roboflow"](tmp_path / "source")
    file = source / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"id": 4711, "licence": 3}
    for box in content["annotations"]:
        box |= {"image_id": 4711 if box["image_id"] == 1 else box["image_id"], "segmentation": [[1, 1, 2, 2, 3, 1]]}
    file.write_text(json.dumps(content))
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert written["images"] == content["images"]
    assert sorted(written["annotations"], key=lambda box: box["id"]) == content["annotations"]


def test_hidden_files_and_other_yaml_are_no_data(tmp_path, ask):
    source = layouts.yolo(tmp_path / "source")
    (source / "classes.txt").write_text("wrong\nnames\n")
    (source / "another.yaml").write_text("names: 3")
    for name in ("images/train/._a1.png", "labels/train/._a1.txt", "._data.yaml", ".a.csv", ".b.xml"):
        (source / name).write_bytes(b"Mac OS X")
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))


def test_each_category_gets_into_validation(tmp_path, ask):
    source = layouts.csv_lists(tmp_path / "source", files="boxes.csv")
    rows = [f"{name},1,1,20,20,{'rare' if name in ('a1.png', 'c3.png') else 'usual'}" for name in layouts.ALL]
    (source / "boxes.csv").write_text("\n".join(rows))
    for seed in range(4):
        assert ask(source, "--out", tmp_path / f"out{seed}", "--seed", seed)[0] == 0
        assert set(COCO.load(tmp_path / f"out{seed}", "val").labels.tolist()) == {1, 2}
        assert set(COCO.load(tmp_path / f"out{seed}", "train").labels.tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("key", "phrase"),
    [("annotations", "has no 'annotations'; a COCO-format file"), ("images", "has no annotations in")],
)
def test_a_list_that_lacks_a_part_is_named(key, phrase, tmp_path, ask):
    source = layouts.UNDIVIDED["fiftyone"](tmp_path / "source")
    content = json.loads((source / "labels.json").read_text())
    del content[key]
    (source / "labels.json").write_text(json.dumps(content))
    assert phrase in ask(source, "--out", tmp_path / "out")[2]


def test_annotations_in_folders_beside_their_images_are_told_apart(tmp_path, ask):
    """As where train/ and val/ number their images from 1 each."""
    source = layouts.voc(tmp_path / "source", images="{}/images", xml="{}/annotations", has_lists=False)
    for kind, ending in (("images", "png"), ("annotations", "xml")):
        (source / f"val/{kind}/c1.{ending}").rename(source / f"val/{kind}/a1.{ending}")
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    plain = layouts.plain(tmp_path / "plain")
    for side, name in (("train", "a1.png"), ("val", "c1.png")):
        assert (tmp_path / f"out/{side}/a1.png").read_bytes() == (plain / side / name).read_bytes()
        split = COCO.load(tmp_path / "out", side)
        assert np.array_equal(split.xywh[:3], [box for _, box in layouts.boxes_of(name)])


@pytest.mark.parametrize("name", ["coco2017", "roboflow", "fiftyone_folders", "json_and_images_in_one_folder"])
def test_fixed_names_are_written_beside_links_and_the_original_stays(name, tmp_path, ask):
    source = layouts.DIRECT[name](tmp_path / "source")
    for file in source.rglob("*.json"):
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["file_name"] = image["file_name"].upper()
        file.write_text(json.dumps(content))
    before = snapshot(source)
    assert ask(source, "--fix_names")[0] == 2
    code, out, err = ask(source, "--output_dir", tmp_path / "out", "--fix_names", "--check")
    assert (code, err) == (0, "")
    assert "7 names: upper or lower case" in out
    assert snapshot(source) == before
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))
    assert "is not empty" in ask(source, "--output_dir", source, "--fix_names")[2]


def test_names_that_cannot_be_fixed_are_counted_and_the_exit_code_is_2(tmp_path, ask):
    source = layouts.plain(tmp_path / "source")
    (source / "train/a2.png").unlink()
    code, out, _ = ask(source, "--out", tmp_path / "out", "--fix_names")
    assert code == 2
    assert "train: no name corrected; 1 stay: a2.png\n" in out


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_box_without_an_id_keeps_its_keys_and_gets_an_id_of_its_own(tmp_path, ask):
    source = layouts.DIRECT["roboflow"](tmp_path / "source")

    def change(content):
        first, second, third, *_ = content["annotations"]
        del first["id"]
        first |= {"iscrowd": 1, "area": 7.5}
        del second["id"], second["area"], second["bbox"]  # a polygon alone
        second["segmentation"] = [[2, 3, 12, 3, 12, 9]]
        third["id"] = 900

    edit(source / "train/_annotations.coco.json", change)
    code, _, err = ask(source, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    boxes = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["annotations"]
    ids = [box["id"] for box in boxes]
    assert len(set(ids)) == len(ids)
    crowd, polygon = (box for box in boxes if box["id"] > 900)
    assert (crowd["iscrowd"], crowd["area"]) == (1, 7.5)
    assert (polygon["iscrowd"], polygon["bbox"], polygon["area"]) == (0, [2, 3, 10, 6], 60)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_ids_as_texts_in_one_list_alone_lose_no_box(kind, tmp_path, ask):
    source = layouts.DIRECT["roboflow"](tmp_path / "source")
    key = "id" if kind == "images" else "image_id"

    def change(content):
        for row in content[kind]:
            row[key] = str(row[key])

    edit(source / "train/_annotations.coco.json", change)
    assert ask(source, "--out", tmp_path / "out")[0] == 0
    assert_same_lists(tmp_path / "out", layouts.plain(tmp_path / "plain"))
    leaked = COCO.load(source, "train").path(4)
    shutil.copy(COCO.load(source, "val").path(0), leaked)
    assert ask(source, "--out", source, "--drop_leaked")[0] == 0
    clean = COCO.load(source, "train_clean")
    whole = COCO.load(source, "train")
    assert clean.num_boxes == whole.num_boxes - len(layouts.boxes_of(leaked.name)) > 0
    assert clean.num_images == whole.num_images - 1


def test_own_images_called_like_tuberculosis_are_converted(tmp_path, ask):
    source = layouts.csv_lists(tmp_path / "source", files="boxes.csv")
    text = (source / "boxes.csv").read_text()
    for i, name in enumerate(layouts.ALL, start=1):
        (source / "images" / name).rename(source / f"images/tb{i:04}.png")
        text = text.replace(name, f"tb{i:04}.png")
    (source / "boxes.csv").write_text(text)
    assert ask(source, "--out", tmp_path / "out", "--val_fraction", 0.5)[0] == 0
    (source / "images/tb0001.png").rename(source / "images/s0001.png")  # now two kinds, so that --format decides
    (source / "boxes.csv").write_text(text.replace("tb0001.png", "s0001.png"))
    assert ask(source, "--out", tmp_path / "again", "--val_fraction", 0.5, "--format", "csv")[0] == 0
    for out in ("out", "again"):
        assert COCO.load(tmp_path / out, "val").num_images in (4, 5)


def test_other_files_and_lists_without_images_do_not_stop_it(tmp_path, ask):
    data = layouts.plain(tmp_path / "data")
    (data / "annotations/meta.json").write_text('{"version": 2}')
    assert COCO.lists(data) == ["train", "val"]
    test = layouts.document(["c1.png"])
    test["images"][0]["file_name"] = "absent.png"
    (data / "annotations/instances_test.json").write_text(json.dumps(test))
    code, out, _ = ask(data)
    assert code == 0
    assert "warning: lists without images, which training on train and val does not need: test\n" in out
    code, out, _ = ask(data, "--check")
    assert code == 0
    assert "warning: " in out
    assert "checked: 0 errors, 1 warnings" in out
    shutil.rmtree(data / "val")
    assert ask(data, "--check")[0] == 2
