import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.phantom.like import plan_like
from datasets.phantom.plan import PhantomError, is_positive_extra, plan_cohort
from datasets.phantom.write import make_phantom, make_phantom_like, write_phantom
from tests.helpers.training import load_script
from util.distributed.exit_codes import run_to_exit_code

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "tbx11k"
SIZE = 96
DOCUMENTS = {
    "TBX11K_train", "TBX11K_val", "TBX11K_trainval", "TBX11K_train_only_tb", "TBX11K_val_only_tb",
    "TBX11K_trainval_only_tb", "all_train", "all_val", "all_trainval", "all_test",
}  # fmt: skip


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / "annotations" / "json" / f"{name}.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(folder: Path) -> dict[str, np.ndarray]:
    paths = [p for p in sorted((folder / "imgs").rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder / "imgs")): np.asarray(Image.open(p)) for p in paths}


def boxes_by_name(document: dict) -> dict[str, list]:
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found: dict[str, list] = {}
    for a in document["annotations"]:
        found.setdefault(names[a["image_id"]], []).append((a["category_id"], a["bbox"]))
    return found


def file_names(document: dict) -> list[str]:
    return [image["file_name"] for image in document["images"]]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "data"
    make_phantom(folder, train=44, val=20, seed=5, positive_fraction=0.4, size=SIZE)
    return folder


# ------------------------------------------------------------------------------------ layout


def test_the_layout_is_that_of_tbx11k(phantom):
    assert {p.stem for p in (phantom / "annotations" / "json").iterdir()} == DOCUMENTS
    for name in DOCUMENTS:
        document = read(phantom, name)
        assert list(document) == ["info", "licenses", "categories", "images", "annotations"]
        assert isinstance(document["info"], list)
        assert isinstance(document["licenses"], list)
        assert [c["id"] for c in document["categories"]] == [1, 2, 3]
        assert [i["id"] for i in document["images"]] == list(range(1, len(document["images"]) + 1))
        assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
        for image in document["images"]:
            with Image.open(phantom / "imgs" / image["file_name"]) as file:
                assert file.size == (image["width"], image["height"]) == (SIZE, SIZE)
        if "_only_tb" not in name:
            assert (phantom / "lists" / f"{name}.txt").read_text().split() == file_names(document)


def test_lists_are_consistent_with_each_other(phantom):
    names = {name: file_names(read(phantom, name)) for name in DOCUMENTS}
    assert len(names["TBX11K_train"]) == 44
    assert len(names["TBX11K_val"]) == 20
    for family in ("TBX11K", "all"):
        train, val, both = (set(names[f"{family}_{split}"]) for split in ("train", "val", "trainval"))
        assert train | val == both
        assert not train & val
    for split in ("train", "val", "trainval"):
        plain, tb = names[f"TBX11K_{split}"], [n for n in names[f"TBX11K_{split}"] if n.startswith("tb/")]
        assert plain[: len(tb)] == tb == names[f"TBX11K_{split}_only_tb"]
        extras = names[f"all_{split}"][len(plain) :]
        assert names[f"all_{split}"][: len(plain)] == plain
        assert extras
        assert all(n.startswith("extra/") for n in extras)
        assert boxes_by_name(read(phantom, f"TBX11K_{split}")) == boxes_by_name(read(phantom, f"all_{split}"))
    assert set(boxes_by_name(read(phantom, "all_trainval"))) == set(names["TBX11K_trainval_only_tb"])


def test_every_image_on_disk_is_listed_and_grey(phantom):
    images = pixels(phantom)
    assert set(images) == set(file_names(read(phantom, "all_trainval")) + file_names(read(phantom, "all_test")))
    for name, image in images.items():
        assert image.shape == (SIZE, SIZE, 3), name
        if name.endswith(".png"):
            assert (image == image[..., :1]).all(), name


def test_json_boxes_are_xml_boxes_scaled_less_one_pixel(phantom):
    document = read(phantom, "TBX11K_trainval")
    for name, found in boxes_by_name(document).items():
        tree = ElementTree.parse(phantom / "annotations" / "xml" / f"{Path(name).stem}.xml")
        across, down = (SIZE / int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        corners = [
            [int(o.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")] for o in tree.iter("object")
        ]
        expected = [[a * across - 1, b * down - 1, (c - a) * across, (d - b) * down] for a, b, c, d in corners]
        np.testing.assert_allclose([box for _, box in found], expected, atol=1e-3)
    for a in document["annotations"]:
        assert a["area"] == int(a["bbox"][2] * a["bbox"][3])
        assert (a["width"], a["height"], a["iscrowd"]) == (SIZE, SIZE, 0)


# ------------------------------------------------------------------ determinism and restarting


def test_the_same_seed_gives_the_same_files_with_any_number_of_workers(tmp_path):
    for name, seed, workers in (("a", 3, 0), ("b", 3, 2), ("c", 4, 0)):
        make_phantom(tmp_path / name, train=6, val=2, seed=seed, size=64, workers=workers)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_a_finished_phantom_is_left_alone_and_another_one_refused(tmp_path):
    plan = plan_cohort(3, 1, seed=0, size=64)
    assert write_phantom(plan, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert not write_phantom(plan, tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(PhantomError, match="seed 0 instead of 1"):
        make_phantom(tmp_path, train=3, val=1, seed=1, size=64)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PhantomError, match="not empty"):
        make_phantom(tmp_path, train=3, val=1, seed=0, size=64)
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_interrupted_phantom_is_finished_by_the_same_command(tmp_path):
    def interrupt():
        if len(list((tmp_path / "a" / "imgs").rglob("*.png"))) == 2:
            raise KeyboardInterrupt

    plan = plan_cohort(4, 1, seed=0, size=64)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(plan, tmp_path / "a", after_image=interrupt)
    assert not (tmp_path / "a" / "phantom.json").exists()
    assert write_phantom(plan, tmp_path / "a")
    write_phantom(plan, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0}, "train"),
        ({"positive_fraction": 1.5}, "positive_fraction"),
        ({"size": 32}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, wrong, message):
    with pytest.raises(PhantomError, match=message):
        make_phantom(tmp_path / "new", **{"train": 4, "val": 2, "seed": 0, **wrong})
    assert not (tmp_path / "new").exists()


def test_the_script_reports_a_mistake_in_one_line_with_status_2(tmp_path, monkeypatch, capsys):
    for wrong, line in (
        (["--train", "0", "--val", "3"], "train and val must be at least 1, got 0 and 3"),
        (["--train", "many"], "argument --train: invalid int value: 'many'"),
        (["--train", "3"], "--train and --val are needed, or --like DIR"),
        (["--train", "3", "--val", "1", "--limit", "9"], "--limit needs --like"),
        (["--like", "x", "--size", "64"], "--size has no meaning with --like"),
    ):
        monkeypatch.setattr(sys, "argv", ["make_phantom.py", "--output_dir", str(tmp_path / "x"), *wrong])
        assert run_to_exit_code(load_script("make_phantom").main) == 2
        assert capsys.readouterr().err == f"error: {line}\n"
    assert not (tmp_path / "x").exists()


def test_the_script_says_what_it_made_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    arguments = ["--output_dir", str(tmp_path / "x"), "--train", "3", "--val", "1", "--size", "64", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["make_phantom.py", *arguments])
    for last_line in ("8 images", "nothing to do"):
        run_to_exit_code(load_script("make_phantom").main)
        assert last_line in capsys.readouterr().out.splitlines()[-1]


# -------------------------------------------------------------------------------------- like


@pytest.fixture
def like(tmp_path):
    """Annotations of a made-up cohort with three of its images at hand, one of them a JPEG, and one xml."""
    folder = tmp_path / "like"
    plan = plan_cohort(100, 40, seed=8, positive_fraction=0.4, size=64)
    (folder / "annotations" / "json").mkdir(parents=True)
    (folder / "annotations" / "xml").mkdir()
    for name, document in plan.documents.items():
        (folder / "annotations" / "json" / f"{name}.json").write_text(json.dumps(document))
    train = plan.lists["all_train"]
    jpeg = next(n for n in train if n.endswith(".jpg"))
    for name in (train[0], train[-1], jpeg):
        path = folder / "imgs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (9, 9, 9)).save(path)
    stem = Path(train[0]).stem
    (folder / "annotations" / "xml" / f"{stem}.xml").write_text(plan.xml[stem])
    return folder


@pytest.mark.slow
def test_like_keeps_real_images_and_all_annotations(like, tmp_path):
    out = tmp_path / "out"
    make_phantom_like(out, like, seed=0)
    there = {k: v for k, v in files(like).items() if k.startswith("imgs/")}
    assert len(there) == 3
    assert there.items() <= files(out).items()
    for name in DOCUMENTS:
        assert read(out, name) == read(like, name)
    listed = set(file_names(read(out, "all_trainval")) + file_names(read(out, "all_test")))
    assert set(pixels(out)) == listed
    for name in listed:
        with Image.open(out / "imgs" / name) as image:
            assert image.format == ("JPEG" if name.endswith(".jpg") else "PNG")


def test_like_draws_lesions_into_the_real_boxes(like):
    found = boxes_by_name(read(like, "all_trainval"))
    cases = {p.case.name: p.case for p in plan_like(like, seed=0).pictures}
    for name, boxes in found.items():
        assert cases[name].kind == "tb"
        assert [lesion.category for lesion in cases[name].lesions] == [c for c, _ in boxes]
        np.testing.assert_allclose(
            np.multiply([lesion.box for lesion in cases[name].lesions], 64), [b for _, b in boxes]
        )
    assert not any(case.lesions for name, case in cases.items() if name.startswith(("health/", "sick/")))


def check_cut(out, source, limit):
    names = {}
    for name in (p.stem for p in (out / "annotations" / "json").iterdir()):
        document, full = read(out, name), read(source, name)
        names[name] = file_names(document)
        assert 0 < len(names[name]) <= limit
        kept = set(names[name])
        assert names[name] == [n for n in file_names(full) if n in kept]
        assert boxes_by_name(document) == {n: b for n, b in boxes_by_name(full).items() if n in kept}
        assert [i["id"] for i in document["images"]] == list(range(1, len(kept) + 1))
        assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for family in ("TBX11K", "all"):
        assert set(names[f"{family}_train"]) | set(names[f"{family}_val"]) == set(names[f"{family}_trainval"])
    for split in ("train", "val", "trainval"):
        assert set(names[f"TBX11K_{split}_only_tb"]) <= set(names[f"TBX11K_{split}"]) <= set(names[f"all_{split}"])
        folders = {n.split("/")[0] for n in names[f"TBX11K_{split}"]}
        assert folders == {"tb", "sick", "health"}
    assert set(pixels(out)) == set(names["all_trainval"] + names["all_test"])
    with_boxes = set(boxes_by_name(read(out, "all_trainval")))
    assert {Path(n).stem for n in with_boxes} == {p.stem for p in (out / "annotations" / "xml").iterdir()}
    return names


def test_a_limit_cuts_every_list_to_a_consistent_mixture(like, tmp_path):
    make_phantom_like(tmp_path / "out", like, seed=0, limit=24)
    names = check_cut(tmp_path / "out", like, 24)
    assert len(names["all_trainval"]) == 24
    assert len(pixels(tmp_path / "out")) <= 48


def test_xml_is_copied_or_made_up_to_fit_the_json(like, tmp_path):
    make_phantom_like(tmp_path / "out", like, seed=0, limit=12)
    copied = next((like / "annotations" / "xml").iterdir())
    assert (tmp_path / "out" / "annotations" / "xml" / copied.name).read_text() == copied.read_text()
    for name, boxes in boxes_by_name(read(tmp_path / "out", "all_trainval")).items():
        tree = ElementTree.parse(tmp_path / "out" / "annotations" / "xml" / f"{Path(name).stem}.xml")
        scale = 64 / int(tree.findtext("size/width"))
        xmin = [int(o.findtext("bndbox/xmin")) * scale - 1 for o in tree.iter("object")]
        np.testing.assert_allclose(xmin, [b[0] for _, b in boxes], atol=0.05)


def test_a_folder_without_annotations_and_lists_that_disagree_are_refused(like, tmp_path):
    with pytest.raises(PhantomError, match="none of the lists"):
        plan_like(tmp_path, seed=0)
    with pytest.raises(PhantomError, match="limit"):
        plan_like(like, seed=0, limit=2)
    path = like / "annotations" / "json" / "all_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(PhantomError, match="differ"):
        plan_like(like, seed=0)


def test_extras_are_positive_by_their_file_names():
    names = ["CHNCXR_0055_0.png", "CHNCXR_0430_1.png", "MCUCXR_0399_1.png", "MCUCXR_0001_0.png"]
    assert [is_positive_extra(f"extra/mc+shenzhen/train/{n}") for n in names] == [False, True, True, False]
    names = ["n22.png", "p2.png", "px38.jpg", "nx40.jpg"]
    assert [is_positive_extra(f"extra/da+db/val/{n}") for n in names] == [False, True, True, False]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not beside the repository")
def test_the_real_annotations_can_be_followed(tmp_path):
    make_phantom_like(tmp_path / "out", REAL, seed=0, limit=12)
    names = check_cut(tmp_path / "out", REAL, 12)
    real = [n for n in names["all_trainval"] if (REAL / "imgs" / n).is_file()]
    assert 0 < len(real) <= 4
    for name in real:
        assert (tmp_path / "out" / "imgs" / name).read_bytes() == (REAL / "imgs" / name).read_bytes()


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not beside the repository")
def test_the_real_extras_are_known_by_name():
    extras = [n for n in file_names(read(REAL, "all_train")) if n.startswith("extra/")]
    assert len(extras) == 288
    assert sum(map(is_positive_extra, extras)) == 137
    extras = [n for n in file_names(read(REAL, "all_val")) if n.startswith("extra/")]
    assert sum(map(is_positive_extra, extras)) == 135


def test_documents_have_the_keys_of_the_real_ones():
    plan = plan_cohort(3, 1, seed=0, size=64)
    document = plan.documents["all_train"]
    image = ["id", "file_name", "width", "height", "date_captured", "license", "coco_url", "flickr_url"]
    box = ["id", "image_id", "category_id", "iscrowd", "area", "bbox", "width", "height"]
    assert list(document["images"][0]) == image
    assert list(document["annotations"][0]) == box
    if REAL.is_dir():
        real = read(REAL, "TBX11K_val")
        assert list(real["images"][0]) == image
        assert list(real["annotations"][0]) == box
        assert real["categories"] == document["categories"]
