"""Every kind of defect, planted alone into a clean folder, is found and named; a clean folder has none."""

import io
import json
import shutil

import pytest
from PIL import Image, ImageEnhance

from datasets.annotations.tbx11k import CATEGORIES
from datasets.checks.folder import check_folder
from datasets.phantom import make_phantom

TRAIN, VAL = "TBX11K_train", "TBX11K_val"
HALF = {1: CATEGORIES[1], 2: CATEGORIES[2]}


def json_of(root, name):
    return root / f"annotations/json/{name}.json"


def edit(root, name, change):
    content = json.loads(json_of(root, name).read_text())
    change(content)
    json_of(root, name).write_text(json.dumps(content))


def names(root, which, start=""):
    content = json.loads(json_of(root, which).read_text())
    return [image["file_name"] for image in content["images"] if image["file_name"].startswith(start)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A phantom of two lists without what is odd in the official files: restarting ids, an unused category."""
    root = tmp_path_factory.mktemp("clean") / "TBX11K"
    make_phantom(root, train=12, val=5, seed=1, positive_fraction=0.5, size=128)
    for path in [*root.glob("annotations/json/*"), *root.glob("lists/*")]:
        if path.stem not in (TRAIN, VAL):
            path.unlink()
    for folder in ("extra", "test"):
        shutil.rmtree(root / "imgs" / folder, ignore_errors=True)
    for name, shift in ((TRAIN, 0), (VAL, 1000)):

        def renumber(content, shift=shift):
            content["categories"] = [c for c in content["categories"] if c["id"] in HALF]
            for image in content["images"]:
                image["id"] += shift
            for box in content["annotations"]:
                box["image_id"] += shift
            content["annotations"][0]["category_id"] = 1
            content["annotations"][-1]["category_id"] = 2

        edit(root, name, renumber)
    shutil.rmtree(root / "annotations/xml")
    return root


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


def found(root):
    return {finding.kind: finding for finding in check_folder(root).findings}


def test_a_clean_folder_has_no_defect(clean):
    assert check_folder(clean).findings == []


def image(root, which=TRAIN, start="", index=0):
    return root / "imgs" / names(root, which, start)[index]


def first_box(**changes):
    return lambda root: edit(root, TRAIN, lambda content: content["annotations"][0].update(changes))


def change_images(change, name=TRAIN):
    return lambda root: edit(root, name, lambda content: change(content["images"]))


def repeat_record(root):
    change_images(lambda images: images.append({**images[0], "id": 5000}))(root)


def truncate(root):
    image(root).write_bytes(image(root).read_bytes()[:-3000])


def resize(root):
    Image.open(image(root)).resize((96, 96)).save(image(root))


def add_box(**changes):
    def change(content):
        content["annotations"].append({**content["annotations"][0], "id": 999, **changes})

    return lambda root: edit(root, TRAIN, change)


def unlabel(root):
    def change(content):
        first = content["annotations"][0]["image_id"]
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] != first]

    edit(root, TRAIN, change)


def add_extra(root):
    name = "extra/mc+shenzhen/train/CHNCXR_0001_1.png"
    (root / "imgs" / name).parent.mkdir(parents=True)
    Image.open(image(root)).transpose(Image.Transpose.ROTATE_90).save(root / "imgs" / name)
    change_images(lambda images: images.append({**images[0], "id": 998, "file_name": name}))(root)


def box_on_healthy(root):
    def change(content):
        healthy = next(image["id"] for image in content["images"] if image["file_name"].startswith("health/"))
        content["annotations"].append({**content["annotations"][0], "id": 997, "image_id": healthy})

    edit(root, TRAIN, change)


def share_name(root):
    record = json.loads(json_of(root, TRAIN).read_text())["images"][-1]
    change_images(lambda images: images.append({**record, "id": 996}), VAL)(root)


def leak(save):
    """A sick training image that is saved once more as a sick validation image."""

    def plant(root):
        save(image(root, TRAIN, "sick/"), image(root, VAL, "sick/"))

    return plant


def save_brighter(source, target):
    held = io.BytesIO()
    ImageEnhance.Contrast(Image.open(source)).enhance(0.9).save(held, "JPEG", quality=85)
    Image.open(held).save(target)


def repeat(start):
    def plant(root):
        shutil.copyfile(image(root, TRAIN, start), image(root, TRAIN, start, 1))

    return plant


def rename_category(root):
    edit(root, VAL, lambda content: content["categories"][0].update(name="Nodule"))


def add_category(root):
    def change(content):
        content["categories"].append({"id": 3, "name": CATEGORIES[3]})
        content["annotations"][0]["category_id"] = 3

    edit(root, VAL, change)


def large_category(root):
    for name in (TRAIN, VAL):
        edit(root, name, lambda content: content["categories"].append({"id": 7, "name": "nodule"}))


def repeat_category(root):
    for name in (TRAIN, VAL):
        edit(root, name, lambda content: content["categories"][1].update(name=CATEGORIES[1]))


def unused_category(root):
    for name in (TRAIN, VAL):
        edit(root, name, lambda content: content["categories"].append({"id": 3, "name": CATEGORIES[3]}))


def restart_ids(root):
    def change(content):
        for record in [*content["images"], *content["annotations"]]:
            key = "image_id" if "image_id" in record else "id"
            record[key] -= 1000

    edit(root, VAL, change)


def write_xml(text):
    def plant(root):
        path = root / "annotations/xml" / f"{image(root, TRAIN, 'tb/').stem}.xml"
        path.parent.mkdir()
        path.write_text(text)

    return plant


def dispute_record(root):
    shutil.copyfile(json_of(root, TRAIN), json_of(root, "TBX11K_trainval"))
    edit(root, "TBX11K_trainval", lambda content: content["annotations"][0].update(bbox=[1, 1, 9, 9], area=81))


NO_BOX = "<annotation><size><width>128</width><height>128</height></size></annotation>"
TB = "tb/tb"
# kind -> (what plants it, what its line must say, kinds that it cannot but bring along)
PLANTS = {
    "missing": (lambda root: image(root).unlink(), "1 of 17 images are missing", set()),
    "unreadable": (lambda root: image(root).write_text("<html>"), "(no image)", set()),
    "unreadable, empty": (lambda root: image(root).write_bytes(b""), "(empty)", set()),
    "unreadable, cut": (truncate, "1 of 17 images cannot be read: tb/", set()),
    "resized": (resize, "(96 x 96 instead of 128 x 128)", set()),
    "blank": (lambda root: Image.new("RGB", (128, 128)).save(image(root)), "1 of 17 images are blank", set()),
    "outside": (change_images(lambda images: images[0].update(file_name="../x.png")), "../x.png", {"orphan"}),
    "repeated_image": (repeat_record, "1 images are listed more than once", {"unlabelled_tb"}),
    "not_finite": (first_box(bbox=[float("nan"), 1, 2, 3]), "not finite", set()),
    "empty_box": (first_box(bbox=[5, 5, 0, 9]), "no height in their image: on tb/", {"unlabelled_tb"}),
    "overhang": (first_box(bbox=[100, 5, 60, 9], area=540), "[100, 5, 60, 9] on tb/", set()),
    "wrong_area": (first_box(area=99999), "1 of", set()),
    "repeated_box": (add_box(), "1 boxes repeat another", set()),
    "disputed_box": (add_box(category_id=2), "2 boxes have two categories", set()),
    "unlabelled_tb": (unlabel, "1 images in tb/ have no box: tb/", set()),
    "unlabelled_extras": (add_extra, "1 in TBX11K_train", set()),
    "box_outside_tb": (box_on_healthy, "1 images outside tb/ have boxes: health/", set()),
    "large_category": (large_category, "set --options num_classes=8", {"other_categories", "unused_category"}),
    "other_categories": (
        rename_category, "1 (Nodule); metrics per category", {"changed_category", "unused_category"}
    ),
    "changed_category": (rename_category, "1 is ActiveTuberculosis in training, Nodule in val", {"other_categories"}),
    "untrained_category": (add_category, "3 (PulmonaryTuberculosis)", set()),
    "repeated_category": (repeat_category, "more than one id: ActiveTuberculosis", {"other_categories"}),
    "unused_category": (unused_category, "3 (PulmonaryTuberculosis)", set()),
    "shared_name": (share_name, "1 of 6 validation images are training images too", {"list_differs"}),
    "shared_bytes": (leak(shutil.copyfile), "1 training images are byte-identical", {"repeated_bytes"}),
    "near_identical": (leak(save_brighter), "1 training images are nearly identical to", set()),
    "repeated_bytes": (repeat("health/"), "1 groups of images are byte-identical: health/", set()),
    "disputed_image": (repeat("tb/"), "1 groups of byte-identical images have different boxes", {"repeated_bytes"}),
    "restarting_ids": (restart_ids, "5 image ids mean different images", set()),
    "bad_annotations": (lambda root: json_of(root, VAL).write_text("{"), "is not JSON", {"orphan", "unused_category"}),
    "bad_xml": (write_xml("<annotation>"), "is not XML", set()),
    "xml_differs": (write_xml(NO_BOX), "1 xml files have other boxes", set()),
    "list_differs": (
        lambda root: (root / f"lists/{VAL}.txt").write_text("tb/tb9999.png\n"), "TBX11K_val (6 names)", set()
    ),
    "orphan": (lambda root: shutil.copy(image(root), root / "imgs/x.png"), "files are in no list: x.png", set()),
    "disputed_record": (dispute_record, "1 images have other boxes or another size", set()),
}  # fmt: skip


def test_there_are_twenty_kinds_and_more():
    assert len({kind.split(",")[0] for kind in PLANTS}) >= 20


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_defect_is_found_in_one_line_with_its_mend_and_nothing_else(root, kind):
    plant, words, others = PLANTS[kind]
    plant(root)
    findings = check_folder(root).findings
    kinds = [finding.kind for finding in findings]
    assert len(set(kinds)) == len(kinds)
    wanted = kind.split(",")[0]
    assert wanted in kinds
    assert set(kinds) - others - {"list_differs"} <= {wanted}
    text = next(finding.text for finding in findings if finding.kind == wanted)
    assert words in text
    assert "\n" not in text
    assert "; " in text or kind == "bad_annotations"


def test_all_lists_of_an_image_are_one_and_a_defect_of_one_list_alone_is_found_too(root):
    shutil.copyfile(json_of(root, TRAIN), json_of(root, "TBX11K_trainval"))
    assert found(root).keys() == set()
    edit(root, "TBX11K_trainval", lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 9]))
    assert found(root)["empty_box"].text.startswith("TBX11K_trainval: 1 of ")
    assert found(root).keys() == {"empty_box", "unlabelled_tb", "disputed_record"}


@pytest.mark.data
@pytest.mark.slow
def test_the_defects_of_the_real_folder_are_exactly_those_known(tbx11k):
    result = found(tbx11k)
    assert {kind: finding.severity for kind, finding in result.items()} == {
        "missing": "error",
        "unlabelled_tb": "warning",
        "unlabelled_extras": "warning",
        "unused_category": "note",
        "restarting_ids": "note",
    }
    num_there = sum(path.is_file() for path in (tbx11k / "imgs").rglob("*"))
    assert result["missing"].text.startswith(f"{12278 - num_there} of 12278 images are missing in ")
    assert result["unlabelled_tb"].text.startswith("1 images in tb/ have no box: tb/tb1199.png; ")
    assert ": 137 in all_train, 272 in all_trainval, 135 in all_val; " in result["unlabelled_extras"].text
    assert result["unused_category"].text.startswith("1 categories have no box: 3 (PulmonaryTuberculosis); ")
    assert result["restarting_ids"].text.startswith("6888 image ids mean different images in different lists")
    assert not [finding for finding in result.values() if "\n" in finding.text]
