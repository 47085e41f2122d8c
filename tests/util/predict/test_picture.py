"""Pictures with boxes: seen on dark and on bright ground, all inside, with the notice."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from util.predict.picture import LARGEST, SMALLEST, draw_picture, draw_thumbnail, fitted

NAMES = {1: "Active", 2: "Obsolete", 7: "Ungewiß <b>"}
BOXES = np.array([[100.0, 100, 300, 250], [110, 110, 290, 260], [0, 0, 512, 512]])


def drawn(level, boxes=BOXES, labels=(1, 2, 7), scores=(0.9, 0.5, 0.4), size=(512, 512)):
    image = Image.new("RGB", size[::-1], (level,) * 3)
    return draw_picture(fitted(image), boxes, labels, scores, names=NAMES, size=size, caption="x.png")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_lines_stand_out_from_any_ground(level):
    edge = np.asarray(drawn(level, BOXES[:1], [1], [0.9]).convert("L"))[150:200, 90:110].astype(int)
    assert edge.max() - edge.min() > 120
    assert (np.abs(edge - level) > 60).any(axis=1).all()


def test_the_image_is_what_it_was_beside_the_marks_and_the_strip_is_below():
    plain = drawn(77, np.zeros((0, 4)), [], [])
    pixels = np.asarray(plain)
    assert (pixels[:512] == 77).all()
    assert pixels.shape[0] > 512 + 12
    assert (pixels[512:] > 200).any()


def test_names_of_boxes_in_one_place_do_not_cover_each_other():
    one, two = (np.asarray(drawn(0, BOXES[[0] * n], [1, 2][:n], [0.9, 0.5][:n])).astype(int) for n in (1, 2))
    orange = (one[..., 0] > 200) & (one[..., 2] < 90)
    assert (np.abs(one - two)[orange].sum(axis=-1) == 0).mean() > 0.95


@pytest.mark.parametrize(
    ("size", "wanted"), [((3000, 2000), (LARGEST, 853)), ((100, 50), (SMALLEST, 256)), ((600, 700), (600, 700))]
)
def test_pictures_have_a_size_to_look_at(size, wanted):
    assert fitted(Image.new("RGB", size)).size == wanted


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1, 1)])
def test_strange_shapes_are_drawn_too(size):
    assert drawn(0, np.array([[0.0, 0, size[1], size[0]]]), [99], [1.0], size).width >= 1


def test_below_a_narrow_image_too_the_notice_has_room():
    sheet = drawn(255, np.zeros((0, 4)), [], [], size=(2000, 10))
    assert sheet.width >= 200
    assert sheet.height < LARGEST + 100
    assert (np.asarray(sheet)[: LARGEST // 2, 20:] == 0).all()


def test_boxes_follow_the_scale_of_the_picture():
    picture = np.asarray(drawn(0, np.array([[1000.0, 1000, 2000, 2000]]), [1], [0.9], (2560, 2560)))
    column = picture[750, :, 0]  # inside the box's rows: its left and right side
    assert 495 <= np.flatnonzero(column > 200)[0] <= 505
    assert 995 <= np.flatnonzero(column > 200)[-1] <= 1005


def test_a_thumbnail_is_a_small_jpeg_with_the_box():
    text = draw_thumbnail(Image.new("RGB", (512, 256)), BOXES[:1], [1], NAMES, (256, 512))
    small = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (small.format, small.size) == ("JPEG", (112, 56))
    assert np.asarray(small)[..., 0].max() > 150
