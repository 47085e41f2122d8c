import json

import pytest

from datasets.annotations.facts import split_facts
from datasets.annotations.layout import TBX11K
from datasets.annotations.split import load_split


def facts(content, write):
    return split_facts(load_split(*write(content)))


def test_facts_are_those_of_the_boxes_that_are_to_be_found(coco, write):
    """Two boxes of 20 x 30 on 48 x 40 and of 10 x 20 on 32 x 32; the crowd region is none."""
    assert facts(coco, write) == {
        "list": "split",
        "images": 3,
        "images_with_boxes": 2,
        "boxes": 2,
        "boxes_by_category": {"1": 1, "2": 1},
        "median_box_width": pytest.approx((20 / 48 + 10 / 32) / 2),
        "median_box_height": pytest.approx((30 / 40 + 20 / 32) / 2),
    }


def test_an_image_with_a_crowd_region_alone_has_no_box(coco, write):
    coco["annotations"] = [{**box, "iscrowd": 1} for box in coco["annotations"]]
    found = facts(coco, write)
    assert (found["images_with_boxes"], found["boxes"], found["boxes_by_category"]) == (0, 0, {"1": 0, "2": 0})
    assert (found["median_box_width"], found["median_box_height"]) == (None, None)


def test_facts_fit_into_a_row_of_the_log(coco, write):
    found = facts(coco, write)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.data
def test_the_facts_of_the_real_training_images(tbx11k):
    found = split_facts(load_split(*TBX11K.find_split(tbx11k, "TBX11K_train")))
    assert (found["images"], found["images_with_boxes"]) == (6600, 599)
    assert found["boxes"] == sum(found["boxes_by_category"].values())
    assert found["boxes_by_category"]["3"] == 0
    assert (found["median_box_width"], found["median_box_height"]) == pytest.approx((119 / 512, 119 / 512), rel=0.05)
