import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.augment.mixing import Mixer, draw_place, make_mosaic, paste_lesion, paste_lesions
from datasets.augment.transforms import clip_boxes
from datasets.dataset import Generators

SEED = st.integers(0, 2**32)
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
PLACE = st.tuples(st.floats(0, 1), st.floats(0, 1))


def target(*boxes):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.arange(len(boxes)) + 1}


def box_on_black(colour, size, box):
    """An image that is black but for its box."""
    image = Image.new("RGB", size)
    image.paste(colour, tuple(box))
    return image, target(box)


def extent(is_there):
    rows, columns = np.nonzero(is_there)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(60, 140), st.integers(60, 140)),
    st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    st.lists(PLACE, min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(60, 140), st.integers(60, 140)), min_size=4, max_size=4),
)
def test_the_boxes_of_a_mosaic_frame_what_they_framed(size, centre, places, sizes):
    """Each part has a colour of its own in its box; what is left of it in the mosaic lies in its box, to a pixel."""
    parts = [
        box_on_black(colour, (w, h), [w // 4, h // 4, 3 * w // 4, 3 * h // 4])
        for colour, (w, h) in zip(COLOURS, sizes, strict=True)
    ]
    parts = [(image, {**t, "labels": t["labels"] * (i + 1)}) for i, (image, t) in enumerate(parts)]
    image, found = make_mosaic(parts, size, centre, places)
    assert image.size == size
    pixels = np.asarray(image)
    seen = {int(label): box.numpy() for label, box in zip(found["labels"], found["boxes"], strict=True)}
    for number, colour in enumerate(COLOURS, start=1):
        is_there = np.abs(pixels.astype(int) - colour).max(axis=2) < 120
        if number in seen and (seen[number][2:] - seen[number][:2]).min() > 3:
            assert np.allclose(extent(is_there), seen[number], atol=1.6)


def test_a_mosaic_by_hand_computation():
    """Four images of 40 x 40 meet in the middle of 40 x 40: each is halved, boxes with it."""
    parts = [box_on_black(colour, (40, 40), [10, 20, 30, 40]) for colour in COLOURS]
    image, found = make_mosaic(parts, (40, 40), (0.5, 0.5), [(0.5, 0.5)] * 4)
    assert found["boxes"].tolist() == [[5, 10, 15, 20], [25, 10, 35, 20], [5, 30, 15, 40], [25, 30, 35, 40]]
    assert [image.getpixel((x, y)) for x, y in ((10, 15), (30, 15), (10, 35), (30, 35))] == COLOURS


def test_a_part_that_is_cut_off_loses_its_box():
    """A part of 80 x 40 covers a quarter of 20 x 20 at half its size; its left half is kept, then its right."""
    part = box_on_black(COLOURS[0], (80, 40), [50, 10, 70, 30])
    for place, boxes in (((0.0, 0.0), []), ((1.0, 0.0), [[5, 5, 15, 15]])):
        others = [(Image.new("RGB", (40, 40)), target())] * 3
        found = make_mosaic([part, *others], (40, 40), (0.5, 0.5), [place, *[(0, 0)] * 3])[1]
        assert found["boxes"].tolist() == boxes


@settings(deadline=None, max_examples=40)
@given(SEED, st.integers(20, 120), st.integers(20, 120), st.integers(60, 200), st.integers(60, 200))
def test_a_copied_lesion_lies_in_its_box(seed, width, height, donor_width, donor_height):
    """A bright ellipse on grey is copied to grey: what is bright then is the ellipse of the new box."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0)
    corners[1] = np.minimum(1, np.maximum(corners[1], corners[0] + 0.3))
    corners[0] = np.minimum(corners[0], corners[1] - 0.3)
    box = (corners * [donor_width, donor_height]).reshape(4).tolist()
    y, x = np.mgrid[:donor_height, :donor_width] + 0.5
    way = np.hypot((2 * x - box[0] - box[2]) / (box[2] - box[0]), (2 * y - box[1] - box[3]) / (box[3] - box[1]))
    donor = Image.fromarray(np.where(way < 1, 200, 100).astype(np.uint8)).convert("RGB")
    image, found = paste_lesions(Image.new("RGB", (width, height), (60,) * 3), target(), donor, target(box), rng)
    (placed,) = found["boxes"].numpy()
    assert placed.min() >= -1e-3
    assert (placed[2:] <= [width + 1e-3, height + 1e-3]).all()
    shares = (placed[2:] - placed[:2]) / [width, height]
    assert shares == pytest.approx([(box[2] - box[0]) / donor_width, (box[3] - box[1]) / donor_height], rel=1e-4)
    bright = np.asarray(image)[..., 0].astype(int) > 110
    assert np.allclose(extent(bright), placed, atol=2.5)


def test_a_lesion_meets_its_new_surroundings_without_an_edge():
    """The donor is 80 levels brighter; the copy is shifted, so that nothing but the lesion stands out."""
    donor = Image.new("RGB", (100, 100), (140,) * 3)
    pasted = paste_lesion(Image.new("RGB", (100, 100), (60,) * 3), [30, 30, 60, 60], donor, [30, 30, 60, 60])
    assert np.abs(np.asarray(pasted).astype(int) - 60).max() <= 1


def test_pixels_beyond_the_margin_stay_as_they_are():
    rng = np.random.default_rng(0)
    image, donor = (Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)) for _ in range(2))
    before, after = np.asarray(image), np.asarray(paste_lesion(image, [20, 20, 60, 50], donor, [10, 15, 50, 45]))
    is_near = np.zeros((80, 90), dtype=bool)
    is_near[12:58, 10:70] = True
    assert np.array_equal(before[~is_near], after[~is_near])
    shift = after[30:40, 35:45].astype(int) - np.asarray(donor)[25:35, 25:35]
    assert (np.ptp(shift[(after[30:40, 35:45] % 255 > 0).all(axis=2)], axis=0) <= 1).all()  # the middle is the donor's


@given(SEED)
def test_a_place_lies_inside_and_off_the_boxes_taken(seed):
    rng = np.random.default_rng(seed)
    taken = torch.tensor([[40.0, 40, 60, 60], [0, 0, 10, 90]])
    place = draw_place([58.0, 50, 80, 95], (100, 100), taken, rng)
    if place is not None:
        assert 0 <= place[0] < place[2] <= 100
        assert 0 <= place[1] < place[3] <= 100
        assert place[0] >= 10
        assert max(place[:2]) >= 60


def test_a_lesion_without_a_free_place_is_left_out():
    donor = box_on_black((200,) * 3, (50, 50), [10, 10, 40, 40])
    image, whole = Image.new("RGB", (50, 50)), target([0, 0, 50, 50])
    same, found = paste_lesions(image, whole, *donor, np.random.default_rng(0))
    assert same is image
    assert found["boxes"].tolist() == [[0, 0, 50, 50]]


def images(index):
    return Image.new("RGB", (40, 30), (index * 20,) * 3), {**target([4, 5, 14, 15]), "image_id": torch.tensor(index)}


def rngs(seed=0):
    return Generators(np.random.default_rng(seed), np.random.default_rng(0), (seed,))


def mixer(**changes):
    return Mixer(
        **{"donors": np.arange(8), "num_images": 8, "mosaic": 1.0, "copy_paste": 1.0, "end_epoch": 3, **changes}
    )


def test_mixing_ends_with_its_last_epoch():
    image, found = mixer()(2, 3, images, rngs())
    assert np.array_equal(np.asarray(image), np.asarray(images(2)[0]))
    assert found["boxes"].tolist() == [[4, 5, 14, 15]]
    assert len(mixer()(2, 2, images, rngs())[1]["boxes"]) > 1


def test_mixing_keeps_who_the_image_is_and_its_size():
    for seed in range(20):
        image, found = mixer()(2, 0, images, rngs(seed))
        assert image.size == (40, 30)
        assert found["image_id"] == 2
        assert len(found["labels"]) == len(found["boxes"])
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()


def test_switching_the_mosaic_on_does_not_change_what_is_copied():
    copied = mixer(mosaic=0.0)(2, 0, images, rngs(4))
    again = mixer(mosaic=1e-12)(2, 0, images, rngs(4))
    assert np.array_equal(np.asarray(copied[0]), np.asarray(again[0]))
    assert torch.equal(copied[1]["boxes"], again[1]["boxes"])


def test_without_donors_nothing_is_copied():
    _, found = mixer(donors=np.zeros(0, dtype=int), mosaic=0.0)(2, 0, images, rngs())
    assert found["boxes"].tolist() == [[4, 5, 14, 15]]


def test_images_are_mixed_as_often_as_asked():
    def load(index):
        image, target = images(index)
        return (image, clip_boxes(target, 1, 1)) if index else (image, target)  # only image 0 has a box

    mix = mixer(mosaic=0.0, copy_paste=0.3, donors=np.array([0]))
    mixed = [len(mix(2, 0, load, rngs(i))[1]["boxes"]) for i in range(400)]
    assert set(mixed) == {0, 1}
    assert np.mean(mixed) == pytest.approx(0.3, abs=0.08)
