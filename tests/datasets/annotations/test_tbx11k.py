import pytest

from datasets.annotations import tbx11k as tbx
from datasets.annotations.layout import COCO, TBX11K
from datasets.annotations.split import load_split
from datasets.checks.tbx11k import find_unlabelled_extras, find_unlabelled_tb
from util.base.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("TBX11K_train", "TBX11K_val", "all_val"):
        file = tmp_path / "data" / "TBX11K" / "annotations" / "json" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    (tmp_path / "data" / "TBX11K" / "imgs" / "tb").mkdir(parents=True)
    return tmp_path / "data" / "TBX11K"


@pytest.fixture
def coco_folder(tmp_path):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "train2017").mkdir()
    for name in ("train2017", "val2017"):
        (tmp_path / "coco" / "annotations" / f"instances_{name}.json").write_text("{}")
    return tmp_path / "coco"


def refusal(find, *args):
    with pytest.raises(DataError) as error:
        find(*args)
    return str(error.value)


def test_a_split_is_found_in_the_official_layout(folder):
    assert TBX11K.find_split(folder, "TBX11K_val") == (
        folder / "imgs",
        folder / "annotations/json/TBX11K_val.json",
    )
    assert TBX11K.find_split(str(folder), "TBX11K_val") == TBX11K.find_split(folder, "TBX11K_val")


@pytest.mark.parametrize("wrong", ["..", "imgs", "annotations", "annotations/json", "imgs/tb"])
def test_a_neighbouring_folder_is_answered_with_the_right_one(folder, wrong):
    message = refusal(TBX11K.find_split, (folder / wrong).resolve(), "TBX11K_train")
    assert message.endswith(f"set --data_path {folder}") or wrong == "imgs/tb"
    assert "annotations/json/NAME.json" in message


def test_an_unknown_list_names_the_near_one_and_all(folder):
    message = refusal(TBX11K.find_split, folder, "TBX11k_train")
    assert "did you mean 'TBX11K_train'? available: TBX11K_train, TBX11K_val, all_val;" in message
    assert "did you mean" not in refusal(TBX11K.find_split, folder, "zzz")
    assert "no split '../json/TBX11K_val'" in refusal(TBX11K.find_split, folder, "../json/TBX11K_val")


def test_a_missing_image_folder_says_what_is_there(folder):
    (folder / "imgs").rename(folder / "images")
    assert "'imgs' is not; the folder holds annotations/, images/" in refusal(TBX11K.find_split, folder, "TBX11K_val")


def test_folders_that_hold_something_else_say_what(tmp_path):
    (tmp_path / "only").mkdir()
    assert "this one holds nothing" in refusal(TBX11K.find_split, tmp_path / "only", "TBX11K_val")
    (tmp_path / "only" / "notes.txt").write_text("")
    assert "this one holds notes.txt" in refusal(TBX11K.find_split, tmp_path / "only", "TBX11K_val")
    assert "there is no such folder" in refusal(TBX11K.find_split, tmp_path / "only" / "none", "TBX11K_val")


def test_the_coco_layout_is_found_and_told_apart(folder, coco_folder):
    annotations = coco_folder / "annotations/instances_train2017.json"
    assert COCO.find_split(coco_folder, "train2017") == (coco_folder / "train2017", annotations)
    assert "the image folder 'val2017' is not" in refusal(COCO.find_split, coco_folder, "val2017")
    assert "available: train2017, val2017" in refusal(COCO.find_split, coco_folder, "test2017")
    assert refusal(TBX11K.find_split, coco_folder, "x").endswith("looks like COCO: set --options dataset_file=coco")
    assert refusal(COCO.find_split, folder, "x").endswith("TBX11K: set --options dataset_file=tbx11k")


def told(split, *, allows_extras=False, is_excluded=True):
    own = find_unlabelled_tb(split, is_excluded=is_excluded)
    return {f.kind: f for f in [*own, *find_unlabelled_extras(split, is_allowed=allows_extras)]}


def test_images_that_show_tuberculosis_but_have_no_box_are_reported(coco, write):
    names = ["tb/tb0001.png", "tb/tb0002.png", "health/h1.png", "extra/mc+shenzhen/train/CHNCXR_0430_1.png"]
    names += ["extra/mc+shenzhen/train/CHNCXR_0055_0.png", "extra/da+db/train/p1.png", "extra/da+db/train/n1.png"]
    coco["images"] = [{"id": i, "file_name": n, "width": 9, "height": 9} for i, n in enumerate(names)]
    coco["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    split = load_split(*write(coco))
    found = told(split)
    assert found.keys() == {"unlabelled_tb", "unlabelled_extras"}
    assert found["unlabelled_tb"].severity == "warning"
    assert found["unlabelled_tb"].text.startswith("1 images in tb/ have no box: tb/tb0002.png; ")
    assert "left out" in found["unlabelled_tb"].text
    assert "used as background" in told(split, is_excluded=False)["unlabelled_tb"].text
    assert found["unlabelled_extras"].severity == "error"
    assert found["unlabelled_extras"].text.startswith("2 extra images of split show tuberculosis by their names but")
    assert " 50.0 % of its images with TB: " in found["unlabelled_extras"].text
    assert "--options allow_unlabelled_extras=True" in found["unlabelled_extras"].text
    assert told(split, allows_extras=True)["unlabelled_extras"].severity == "warning"


@pytest.mark.data
def test_the_gaps_of_the_real_annotations_are_those_known(tbx11k):
    def gaps(name):
        return {k: f.text for k, f in told(load_split(*TBX11K.find_split(tbx11k, name))).items()}

    train = gaps("TBX11K_train")
    assert train.keys() == {"unlabelled_tb"}
    assert train["unlabelled_tb"].startswith("1 images in tb/ have no box: tb/tb1199.png; ")
    assert gaps("TBX11K_val") == {}
    assert gaps("all_train")["unlabelled_extras"].startswith("137 extra images of all_train show")
    assert " 18.6 % of its images with TB" in gaps("all_train")["unlabelled_extras"]
    assert gaps("all_val")["unlabelled_extras"].startswith("135 extra images of all_val show")


def test_the_folder_tells_what_kind_of_image_it_is():
    names = {
        "tb/tb0003.png": "tb",
        "health/h0001.png": "healthy",
        "sick/s0001.png": "sick",
        "test/unknown_1.png": "unknown",
        "extra/mc+shenzhen/val/CHNCXR_0429_1.png": "tb",
        "extra/mc+shenzhen/val/MCUCXR_0027_0.png": "healthy",
        "extra/da+db/train/p12.jpg": "tb",
        "extra/da+db/train/n12.jpg": "healthy",
        "val2017/000000000139.jpg": None,
    }
    kinds = tbx.image_kinds(dict(enumerate(names)))
    assert [kinds.get(i) for i in range(len(names))] == list(names.values())
