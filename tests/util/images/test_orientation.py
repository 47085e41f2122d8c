"""Orientation tags: pixels are as the file stores them in any format, unless the reader is asked to turn them."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.files.deep import chunk, png
from util.images import convert_image, read_facts, read_image, read_size
from util.images.depth import ReadingRules
from util.images.orientation import is_recorded_turned
from util.images.reader import read_with_facts

APPLY = ReadingRules(orientation="apply")
STORED = np.random.default_rng(0).integers(0, 256, (20, 31), dtype=np.uint8)
# What a viewer shows, by tag, as the standard describes where row 0 and column 0 are
SHOWN = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: STORED[::-1].T,
    7: STORED[::-1, ::-1].T,
    8: STORED.T[::-1],
}
WRITERS = {
    **{f"tiff {how}": {"format": "TIFF", "compression": how} for how in (None, "tiff_lzw", "tiff_adobe_deflate")},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "jpeg": {"format": "JPEG", "quality": 100, "subsampling": 0},
}
PIXELS = {
    "grey": STORED,
    "colour": np.stack([STORED, 255 - STORED, STORED // 2], axis=-1),
    "16 bits": STORED.astype(np.uint16) * 257,
}


def saved(path, pixels, how, tag):
    exif = Image.Exif()
    exif[274] = tag
    tags = {"tiffinfo": {274: tag}} if how["format"] == "TIFF" else {"exif": exif}
    Image.fromarray(pixels).save(path, **how, **tags)
    return path


@pytest.mark.parametrize("tag", SHOWN)
@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("kind", PIXELS)
def test_pixels_are_as_stored_and_turned_on_request(tmp_path, how, kind, tag):
    if kind == "16 bits" and how in ("webp", "jpeg"):
        pytest.skip("such files have 8 bits")
    path = saved(tmp_path / "x", PIXELS[kind], WRITERS[how], tag)
    with_none = np.asarray(read_image(saved(tmp_path / "y", PIXELS[kind], WRITERS[how], 1)))
    for content in (path, io.BytesIO(path.read_bytes())):
        reading = read_with_facts(content)
        assert reading.turn == read_facts(content).turn == tag
        assert np.array_equal(np.asarray(reading.image), with_none)
        assert read_size(content) == (reading.image.height, reading.image.width) == (20, 31)
        turned = read_image(content, APPLY)
        assert read_size(content, APPLY) == (turned.height, turned.width) == SHOWN[tag].shape
        if kind == "grey" and how != "jpeg":
            assert np.array_equal(np.asarray(turned), SHOWN[tag])


def test_a_tag_behind_the_pixels_and_one_in_xmp_count():
    exif = Image.Exif()
    exif[274] = 6
    late = png(STORED.astype(np.uint16), after=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="8"/>'
    for content, tag in ((late, 6), (png(STORED.astype(np.uint16), before=chunk(b"iTXt", xmp)), 8)):
        assert read_facts(io.BytesIO(content)).turn == tag
        assert read_image(io.BytesIO(content), APPLY).size == (20, 31)


@pytest.mark.parametrize("tag", [0, 9, 200])
def test_a_tag_without_meaning_is_none(tmp_path, tag):
    assert read_facts(saved(tmp_path / "x", STORED, WRITERS["jpeg"], tag)).turn == 1


@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_does_not_damage_the_pixels():
    held = io.BytesIO()
    Image.fromarray(STORED).save(held, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_with_facts(io.BytesIO(held.getvalue())).turn == 1


def test_an_image_of_pillow_is_converted_as_stored(tmp_path):
    path = saved(tmp_path / "x", STORED, WRITERS["tiff tiff_lzw"], 6)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(convert_image(image)), STORED)


@pytest.mark.parametrize(
    ("recorded", "tag", "expected"),
    [((20, 31), 6, True), ((31, 20), 6, False), ((20, 31), 3, False), ((9, 9), 6, False)],
)
def test_a_record_of_the_turned_image_is_recognised(recorded, tag, expected):
    assert is_recorded_turned((31, 20), recorded, tag) == expected
