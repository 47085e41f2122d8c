import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from util.images import (
    UNREADABLE,
    ImageFacts,
    common,
    huge_images,
    huge_images_in_turn,
    read_facts,
    read_image,
    read_size,
)
from util.images import reader as images
from util.images.huge_images import take_turn

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


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.jpg"])
def test_postscript_is_refused_and_no_program_is_started(tmp_path, monkeypatch, name):
    (tmp_path / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\necho 9.50\n')
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    (tmp_path / name).write_bytes(POSTSCRIPT)
    for content in (tmp_path / name, io.BytesIO(POSTSCRIPT)):
        for read in (read_image, read_size):
            with pytest.raises(UNREADABLE):
                read(content)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("ending", ["ico", "pcx", "tga", "sgi", "dds", "icns", "xbm", "avif"])
def test_formats_that_nobody_promised_are_refused(tmp_path, ending):
    image = Image.new("1" if ending == "xbm" else "RGB", (64, 64))
    try:
        image.save(tmp_path / f"x.{ending}")
    except (OSError, KeyError):
        pytest.skip("this Pillow does not write it")
    (tmp_path / f"x.{ending}").rename(tmp_path / "x.png")
    with pytest.raises(Image.UnidentifiedImageError):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "gif", "webp", "jp2", "pgm"])
def test_formats_that_are_promised_are_read(tmp_path, ending):
    Image.new("L", (8, 9), 255).save(tmp_path / f"x.{ending}")
    assert read_image(tmp_path / f"x.{ending}").tobytes() == b"\xff" * 72


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_no_regular_file_keeps_nobody_waiting(tmp_path, kind):
    kind(tmp_path / "x.png")
    for read in (read_image, read_size):
        with pytest.raises(OSError, match="not a regular file but a"):
            read(tmp_path / "x.png")


def header_of(width, height):
    """A PNG that says how large it is, and nothing more."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (2**31 - 1, 1), (1, 100_000_001), (60_000, 60_000)])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(size):
    for read in (read_image, read_size):
        with pytest.raises(UNREADABLE, match=r"more than 100000000 are not read|exceeds limit|too large"):
            read(io.BytesIO(header_of(*size)))


def test_the_largest_image_is_still_taken():
    assert read_size(io.BytesIO(header_of(10_000, 10_000))) == (10_000, 10_000)


def test_a_file_of_too_many_bytes_is_refused_unopened(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    os.truncate(tmp_path / "x.png", images.MAX_FILE_BYTES + 1)  # a hole, which takes no room on the disk
    for read in (read_image, read_size):
        with pytest.raises(ValueError, match="bytes; more than"):
            read(tmp_path / "x.png")


def test_a_tile_far_larger_than_its_image_is_refused():
    tags = {256: 2, 257: 2, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = struct.pack("<2sHI8x", b"II", 42, 16) + struct.pack("<H", len(tags)) + entries + bytes(4)
    for read in (read_image, read_size):
        with pytest.raises(ValueError, match="60000 x 60000 pixels; more than"):
            read(io.BytesIO(tiff))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_deep_pixels_are_the_same_however_many_are_scaled_at_once(tmp_path, monkeypatch, rows):
    deep = np.random.default_rng(0).integers(0, 65536, (7, 5), dtype=np.uint16)
    monkeypatch.setattr(common, "PIXELS_AT_ONCE", 5 * rows)
    for name in ("x.png", "x.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert np.array_equal(np.asarray(read_image(tmp_path / name)), np.round(deep / (65535 / 255)))


def test_one_huge_image_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_images, "HUGE_PIXELS", 99)
    for name, side in (("huge.png", 10), ("small.png", 5)):
        Image.new("L", (side, side)).save(tmp_path / name)
    done = []

    def read(name):
        with huge_images_in_turn():
            read_image(tmp_path / name)
            done.append(name)

    with huge_images_in_turn():
        read_image(tmp_path / "huge.png")
        read_image(tmp_path / "huge.png")  # its own turn keeps no thread waiting
        threads = [threading.Thread(target=read, args=(name,)) for name in ("huge.png", "small.png")]
        for thread in threads:
            thread.start()
        threads[1].join(10)
        threads[0].join(0.2)
        assert done == ["small.png"]
    threads[0].join(10)
    assert done == ["small.png", "huge.png"]


def test_a_turn_outside_of_a_block_is_refused():
    with pytest.raises(RuntimeError, match="never end"):
        take_turn(pixels=10**9)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA", "1", "YCbCr", "L"])
def test_a_huge_image_reads_as_a_small_one_does(tmp_path, monkeypatch, mode):
    rgb = np.random.default_rng(0).integers(0, 256, (19, 7, 3), dtype=np.uint8)
    for pixels in (rgb, np.dstack([rgb[..., 0]] * 3)):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "x.tif")
        small = read_image(tmp_path / "x.tif")
        with monkeypatch.context() as patched:
            patched.setattr(images, "HUGE_PIXELS", 10)
            patched.setattr("util.images.common.PIXELS_AT_ONCE", 35)
            huge = read_image(tmp_path / "x.tif")
        assert (huge.mode, huge.size, huge.tobytes()) == (small.mode, small.size, small.tobytes())
