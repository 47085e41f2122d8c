import struct

import numpy as np
import pytest
from PIL import Image

from util.images import UNREADABLE, ImageFacts, read_facts, read_image, read_size

GREY = np.array([[0, 100], [200, 255]], dtype=np.uint8)


def saved(tmp_path, image, name="image.png"):
    image.save(tmp_path / name)
    return np.asarray(read_image(tmp_path / name).convert("RGB"))


def test_grey_is_one_channel_however_the_file_says_it(tmp_path):
    for mode in ("L", "RGB", "RGBA", "P"):
        image = Image.fromarray(GREY).convert(mode)
        image.save(tmp_path / "image.png")
        assert np.array_equal(np.asarray(read_image(tmp_path / "image.png")), GREY), mode


@pytest.mark.parametrize("channel", range(3))
def test_one_pixel_of_colour_makes_a_colour_image(tmp_path, channel):
    pixels = np.stack([GREY] * 3, axis=-1)
    pixels[1, 0, channel] += 1
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "image.png")), pixels)


def test_sixteen_bits_are_scaled_to_eight_by_their_full_range(tmp_path):
    deep = np.array([[0, 257 * 100], [257 * 200 + 128, 65535]], dtype=np.uint16)
    for name in ("image.png", "image.tif"):
        assert np.array_equal(saved(tmp_path, Image.fromarray(deep), name), np.stack([GREY] * 3, axis=-1))


def test_transparency_is_dropped_and_a_palette_looked_up(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    rgba = np.dstack([rgb, np.full((2, 2), 7, dtype=np.uint8)])
    assert np.array_equal(saved(tmp_path, Image.fromarray(rgba)), rgb)
    assert np.array_equal(saved(tmp_path, Image.fromarray(rgb).quantize(16)), rgb)


def test_bilevel_becomes_black_and_white(tmp_path):
    image = Image.fromarray(GREY > 150)
    assert np.array_equal(saved(tmp_path, image)[..., 0], np.array([[0, 0], [255, 255]]))


@pytest.mark.parametrize("values", [[[0.5]], [[70000]], [[-1]]])
def test_pixels_without_a_sensible_8_bit_form_are_refused(tmp_path, values):
    array = np.array(values, dtype=np.float32 if isinstance(values[0][0], float) else np.int32)
    with pytest.raises(ValueError, match="8 or 16 bits"):
        saved(tmp_path, Image.fromarray(array), "image.tif")


def test_the_header_alone_tells_height_and_width(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    assert read_size(path) == (20, 30)
    with pytest.raises(OSError, match="truncated"):
        read_image(path)


def test_white_may_be_zero_in_a_deep_tiff(tmp_path):
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "image.tif", tiffinfo={262: 0})
    assert np.array_equal(np.asarray(read_image(tmp_path / "image.tif")), 255 - GREY)


def tiff_of_12_bits(values):
    """A greyscale TIFF of one row of two pixels in three bytes, which Pillow reads but does not write."""
    one, two = values
    packed = bytes([one >> 4, (one & 15) << 4 | two >> 8, two & 255])
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI3sx", b"II", 42, 12, packed) + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bits_are_scaled_by_their_full_range(tmp_path):
    (tmp_path / "image.tif").write_bytes(tiff_of_12_bits([4095, 2000]))
    assert np.asarray(read_image(tmp_path / "image.tif"))[0].tolist() == [255, round(2000 / 4095 * 255)]


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_a_file_of_several_pages_is_refused(tmp_path, ending):
    pages = [Image.fromarray(np.full((4, 5), level, dtype=np.uint8)) for level in (0, 100, 200)]
    pages[0].save(tmp_path / f"image.{ending}", save_all=True, append_images=pages[1:])
    for read in (read_image, read_size):
        with pytest.raises(ValueError, match="holds 3 pages; save the one"):
            read(tmp_path / f"image.{ending}")


def test_a_photograph_with_a_preview_behind_it_is_read(tmp_path):
    page = Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8))
    page.save(tmp_path / "image.jpg", "MPO", save_all=True, append_images=[page])
    assert read_image(tmp_path / "image.jpg").size == (8, 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (333, 7), (600, 500)])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_8_bit_colour_of_any_size_reads_as_pillow_reads_it(tmp_path, size, kind):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = tmp_path / f"image.{kind}"
    Image.fromarray(rgb).save(path)
    assert read_facts(path) == ImageFacts(*size)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(read_image(path).convert("RGB")), np.asarray(image.convert("RGB")))


@pytest.mark.data
def test_the_real_x_rays_read_as_pillow_reads_them(shared):
    paths = sorted((shared / "tbx11k/imgs").rglob("*.*"))
    assert len(paths) >= 20
    for path in paths:
        with Image.open(path) as image:
            assert read_image(path).convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp"])
def test_damage_anywhere_is_an_error_that_readers_know(tmp_path, kind):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    outcomes = set()
    for seed in range(60):
        rng, content = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(0, min(len(content), 300), 4):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content))] if seed % 4 == 0 else content)
        try:
            outcomes.add(read_image(path).mode)
        except UNREADABLE:
            outcomes.add("unreadable")
    assert "unreadable" in outcomes
    assert outcomes <= {"RGB", "unreadable"}
