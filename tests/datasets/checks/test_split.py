import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets.annotations.layout import TBX11K
from datasets.annotations.split import load_split
from datasets.cache.file import read_source_file
from datasets.checks.categories import check_pair, find_in_num_classes
from datasets.checks.findings import refuse_errors
from datasets.checks.image_files import read_image_files, read_image_headers
from datasets.checks.split import find_in_annotations, find_in_images, listed_files
from datasets.dataset import load_image
from util.base.errors import DataError
from util.base.text import printable


def checked(split, num_classes, opens_images=True):
    """The warnings of a split; its errors are raised."""
    findings = [*find_in_annotations(split), *find_in_num_classes(split, num_classes)]
    if opens_images:
        findings += find_in_images(split, read_image_headers(listed_files(split)))
    return refuse_errors(findings, f"{split.annotation_file}: cannot be used")


def problems(folder, num_classes=3, **how):
    split = load_split(*folder)
    with pytest.raises(DataError) as error:
        checked(split, num_classes, **how)
    first, *lines = str(error.value).split("\n  ")
    assert str(split.annotation_file) in first
    return lines


def test_a_sound_split_passes(coco, write):
    checked(load_split(*write(coco)), num_classes=3)


def test_a_category_that_num_classes_has_no_room_for_names_both_and_the_mend(coco, write):
    (line,) = problems(write(coco), num_classes=2)
    assert line == "category ids go up to 2 (latent), but num_classes is 2; set --options num_classes=3"


def test_a_name_that_stands_for_two_categories_is_refused(coco, write):
    for category in coco["categories"]:
        category["name"] = "active"
    (line,) = problems(write(coco))
    assert line.startswith("1 category names stand for more than one id: active; ")


def test_missing_images_are_counted_and_named(coco, write):
    folder, file = write(coco)
    (folder / "sub" / "b.png").unlink()
    (folder / "sub").rmdir()
    (folder / "c.png").unlink()
    (folder / "c.png").mkdir()
    (line,) = problems((folder, file))
    assert line.startswith(f"2 of 3 images are missing in {folder}: sub/b.png, c.png; ")


def spoiled(folder, name, content):
    (folder / name).write_bytes(content)


def test_files_that_are_no_images_are_counted_and_named_with_the_reason(coco, write):
    folder, file = write(coco)
    whole = (folder / "c.png").read_bytes()
    spoiled(folder, "a.png", b"<html>404 not found</html>")
    spoiled(folder, "sub/b.png", b"")
    (line,) = problems((folder, file))
    assert line.startswith(
        "2 of 3 images cannot be read: a.png (no image), sub/b.png (empty); download these files again"
    )
    spoiled(folder, "c.png", whole[:20])
    (line,) = problems((folder, file))
    assert line.startswith("3 of 3 images cannot be read: a.png (no image), sub/b.png (empty), c.png (")


def test_an_image_of_a_kind_that_cannot_be_used_is_told_with_the_mend(coco, write):
    coco["images"][2]["file_name"] = "c.tif"
    folder, file = write(coco)
    Image.fromarray(np.zeros((32, 32), dtype=np.float32)).save(folder / "c.tif")
    (line,) = problems((folder, file))
    assert "c.tif (pixels are floating point numbers; save the image with 8 or 16 bits)" in line


def test_images_of_another_size_than_recorded_are_counted_and_shown(coco, write):
    folder, file = write(coco)
    Image.open(folder / "a.png").resize((24, 20)).save(folder / "a.png")
    Image.open(folder / "sub/b.png").transpose(Image.Transpose.ROTATE_90).save(folder / "sub/b.png")
    (line,) = problems((folder, file))
    assert line.startswith(
        "2 of 3 images have another size (width x height) than recorded: "
        "a.png (24 x 20 instead of 48 x 40), sub/b.png (50 x 30 instead of 30 x 50); the boxes would not fit"
    )


def test_a_missing_image_is_told_once_beside_others_that_cannot_be_read(coco, write):
    folder, file = write(coco)
    (folder / "a.png").unlink()
    spoiled(folder, "c.png", b"")
    missing, unreadable = problems((folder, file))
    assert missing.startswith(f"1 of 3 images are missing in {folder}: a.png; ")
    assert unreadable.startswith("1 of 3 images cannot be read: c.png (empty); ")


def test_who_need_not_open_the_images_does_not(coco, write):
    folder, file = write(coco)
    spoiled(folder, "c.png", b"")
    checked(load_split(folder, file), num_classes=3, opens_images=False)
    (folder / "a.png").unlink()
    (line,) = problems((folder, file), opens_images=False)
    assert "1 of 3 images are missing" in line


def test_all_images_of_a_larger_split_are_opened_and_keep_their_names(coco, write):
    coco["images"] = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 9} for i in range(100)]
    coco["annotations"] = []
    folder, file = write(coco)
    checked(load_split(folder, file), num_classes=3)
    Image.new("L", (9, 8)).save(folder / "37.png")
    spoiled(folder, "99.png", b"")
    unreadable, resized = problems((folder, file))
    assert "1 of 100 images cannot be read: 99.png (empty); " in unreadable
    assert "37.png (9 x 8 instead of 8 x 9); " in resized


def test_two_splits_of_the_same_categories_go_together(coco, write):
    train = load_split(*write(coco, "train"))
    coco["categories"].append({"id": 3, "name": "listed by one, boxed by none"})
    val = load_split(*write(coco, "val"))
    check_pair(train, val)
    check_pair(val, train)


def test_a_category_id_with_two_meanings_and_a_category_never_trained_are_refused(coco, write):
    train = load_split(*write(coco, "train"))
    coco["categories"] = [{"id": 1, "name": "latent"}, {"id": 2, "name": "active"}, {"id": 4, "name": "nodule"}]
    coco["annotations"][0]["category_id"] = 4
    coco["annotations"][2]["category_id"] = 4  # a crowd region: nothing to find
    val = load_split(*write(coco, "val"))
    with pytest.raises(DataError) as error:
        check_pair(train, val)
    first, changed, strange = str(error.value).split("\n  ")
    assert first == f"{val.annotation_file}: does not go with {train.annotation_file}"
    assert changed == (
        "2 category ids have different names: 1 is active in training, latent in validation, "
        "2 is latent in training, active in validation; use one list in both files"
    )
    assert strange == (
        "1 of 2 boxes are of categories that training does not list: 4 (nodule); list them there, or remove these boxes"
    )


def test_a_missing_image_folder_is_one_problem(coco, write, tmp_path):
    _, file = write(coco)
    (line,) = problems((tmp_path / "nowhere", file))
    assert "nowhere does not exist" in line


@pytest.mark.parametrize("name", ["../split.json", "/etc/hostname", "sub/../../split.json", "a\0.png"])
def test_file_names_may_not_leave_the_image_folder(coco, write, name):
    folder, file = write(coco)
    coco["images"][1]["file_name"] = name
    file.write_text(json.dumps(coco))
    (line,) = problems((folder, file))
    assert line.startswith(f"1 of 3 file names leave the image folder: {printable(name)}; give them relative to")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([4, 6, -2, 30], "1 of 3 boxes have a negative width or height: [4, 6, -2, 30] on a.png (id 7, 48 x 40); "),
        ([4, 6, 20, -3], "1 of 3 boxes have a negative width or height"),
        ([float("nan"), 6, 20, 30], "1 of 3 boxes have numbers that are not finite"),
        ([4, 6, float("inf"), 30], "1 of 3 boxes have numbers that are not finite"),
        ([-1.5, 6, 20, 30], "1 of 3 boxes reach more than 1 px beyond their image"),
        ([4, 6, 20, 36], "1 of 3 boxes reach more than 1 px beyond their image: [4, 6, 20, 36] on a.png"),
        ([30, 6, 20, 30], "1 of 3 boxes reach more than 1 px"),
        ([600, 600, 20, 30], "1 of 3 boxes reach more than 1 px"),
    ],
)
def test_unusable_boxes_are_counted_and_shown(coco, write, box, message):
    coco["annotations"][1]["bbox"] = box
    (line,) = problems(write(coco))
    assert line.startswith(message)


def test_a_pixel_of_overhang_is_tolerated(coco, write):
    coco["annotations"][1]["bbox"] = [-1, -1, 50, 42]
    checked(load_split(*write(coco)), num_classes=3)


def test_all_problems_come_at_once_with_a_few_examples(coco, write):
    boxes = [[i, 0, -1 if i < 5 else 1, 99 if i > 6 else 1] for i in range(9)]
    coco["annotations"] = [{"id": i, "image_id": 5, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    folder, file = write(coco)
    (folder / "a.png").unlink()
    lines = problems((folder, file), num_classes=1)
    assert len(lines) == 4
    assert lines[1].startswith("5 of 9 boxes")
    assert lines[1].count(" on c.png ") == 3
    assert ", ...; " in lines[1]
    assert lines[2].startswith("2 of 9 boxes reach")


@pytest.mark.data
def test_the_real_annotations_are_sound_but_for_the_images_left_out(tbx11k):
    (line,) = problems(TBX11K.find_split(tbx11k, "TBX11K_train"), num_classes=4)
    assert " of 6600 images are missing in " in line


@pytest.mark.data
def test_the_real_training_and_validation_lists_go_together(tbx11k):
    check_pair(*(load_split(*TBX11K.find_split(tbx11k, name)) for name in ("TBX11K_train", "TBX11K_val")))


def test_a_link_that_leads_round_matters_only_to_a_list_that_names_it(coco, write):
    folder, file = write(coco)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert not checked(load_split(folder, file), num_classes=3)
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(folder / "a.png")
    (line,) = problems((folder, file))
    assert line.startswith(f"1 of 3 images are missing in {folder}: a.png; ")


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_keeps_no_check_waiting(coco, write, kind):
    folder, file = write(coco)
    (folder / "a.png").unlink()
    kind(folder / "a.png")
    (line,) = problems((folder, file))
    assert line.startswith("1 of 3 images are missing")
    found = read_image_files([folder / "a.png", folder / "c.png"], {})
    assert found[str(folder / "a.png")].startswith("not a regular file but a")
    split = load_split(folder, file)
    with pytest.raises(DataError, match=r"a.png: cannot be read as an image .*not a regular file but a"):
        load_image(split, split.file_names.tolist().index("a.png"))
    with pytest.raises(OSError, match="not a regular file but a"):
        read_source_file(split, split.file_names.tolist().index("a.png"))


def test_an_image_that_is_a_strip_is_named(coco, write):
    coco["images"][0].update(width=900, height=100)
    folder, file = write(coco)
    (line,) = checked(load_split(folder, file), num_classes=3, opens_images=False)
    assert line.startswith("1 images are more than 8 times as long as wide: ")
    assert "(900 x 100)" in line
