import json

import pytest

from datasets import tbx11k as tbx
from datasets.checks import check_split
from datasets.coco import load_split
from datasets.errors import DataError


def problems(folder, num_classes=3):
    split = load_split(*folder)
    with pytest.raises(DataError) as error:
        check_split(split, num_classes)
    first, *lines = str(error.value).split("\n  ")
    assert str(split.annotation_file) in first
    return lines


def test_a_sound_split_passes(coco, write):
    check_split(load_split(*write(coco)), num_classes=3)


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
    assert line.startswith(f"1 of 3 file names leave the image folder: {name}; give them relative to")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([4, 6, 0, 30], "1 of 3 boxes have no width or no height: [4, 6, 0, 30] on a.png (id 7, 48 x 40); "),
        ([4, 6, 20, -3], "1 of 3 boxes have no width or no height"),
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
    check_split(load_split(*write(coco)), num_classes=3)


def test_all_problems_come_at_once_with_a_few_examples(coco, write):
    boxes = [[i, 0, 0 if i < 5 else 1, 99 if i > 6 else 1] for i in range(9)]
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
    (line,) = problems(tbx.find_split(tbx11k, "TBX11K_train"), num_classes=4)
    assert " of 6600 images are missing in " in line
