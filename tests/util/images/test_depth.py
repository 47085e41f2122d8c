"""16-bit files: the same picture at any depth and in any kind of file, and the one rule of a folder."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.files.deep import PNG_KINDS, TIFF_KINDS, chunk, in_depth, png, tiff
from util.base.errors import DataError
from util.images import UNREADABLE, convert_image, read_facts, read_image
from util.images.depth import DEPTHS, ReadingRules, SampleDepth, choose_depth, smallest_depth
from util.images.reader import read_with_facts

GREY = np.random.default_rng(0).integers(0, 256, (9, 13))
GREY[0, :2] = 0, 255
KINDS = {
    **{f"png {kind}": lambda samples, kind=kind: png(samples, kind) for kind in PNG_KINDS},
    **{f"tiff {one}": lambda samples, one=one: tiff(samples, *one) for one in TIFF_KINDS},
}


def read(content, rules=None):
    image = read_image(io.BytesIO(content), *([rules] if rules else []))
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", DEPTHS)
def test_the_same_picture_at_any_depth_is_read_within_one_grey_level(kind, bits):
    content = KINDS[kind](in_depth(GREY, bits))
    for rules in (None, ReadingRules(bits)):
        found = read(content, rules)
        assert found.shape == GREY.shape  # grey stays one channel
        assert np.abs(found - GREY).max() <= 1
    assert read_with_facts(io.BytesIO(content)).samples == SampleDepth(None, (1 << bits) - 1)
    assert read_facts(io.BytesIO(content)).samples == SampleDepth()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_the_whole_samples(kind):
    samples = np.random.default_rng(1).integers(0, 65536, (6, 5))
    samples[0, 0] = 65535
    assert np.array_equal(read(KINDS[kind](samples)), np.round(samples / 257))


def test_colour_is_read_channel_by_channel():
    samples = np.random.default_rng(1).integers(0, 4096, (4, 6), dtype=np.uint16)
    content = bytearray(png(samples, "rgb"))
    assert read(bytes(content)).shape == (4, 6)
    rgb = np.stack([samples, samples // 2, samples // 4], axis=-1)
    image = np.zeros((4, 6, 3), np.uint16) + rgb
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image.reshape(4, -1))
    import zlib

    start = content.index(b"IDAT") - 4
    end = content.index(b"IEND") - 4
    content[start:end] = chunk(b"IDAT", zlib.compress(raw))
    assert np.array_equal(read(bytes(content), ReadingRules(12)), np.round(rgb / (4095 / 255)))


def test_higher_values_than_the_depth_become_white():
    assert read(png(np.array([[0, 4095, 4096, 65535]])), ReadingRules(12)).tolist() == [[0, 255, 255, 255]]


@pytest.mark.parametrize(("chunk_of", "stated"), [(b"\x0c", 12), (b"\x0b", 11), (b"\x10", 16), (b"\0", None)])
def test_a_png_may_state_its_depth(chunk_of, stated):
    for place in ("before", "after"):
        content = png(np.array([[0, 1000]]), **{place: chunk(b"sBIT", chunk_of)})
        assert read_facts(io.BytesIO(content)).samples == SampleDepth(stated)
        top = (1 << (stated or 10)) - 1
        assert read(content).tolist() == [[0, round(1000 / top * 255)]]


def test_transparency_has_no_part_in_the_depth():
    grey = png(np.array([[0, 900]]), "grey_alpha", before=chunk(b"sBIT", b"\x0c\x10"))
    colour = png(np.array([[0, 900]]), "rgba", before=chunk(b"sBIT", b"\x0c\x0b\x0c\x10"))
    for content in (grey, colour):
        assert read_with_facts(io.BytesIO(content)).samples == SampleDepth(12, 900)


@pytest.mark.parametrize(("highest", "stated"), [(4095, 12), (3000, None), (65535, None), (16383, 14)])
def test_a_tiff_may_state_its_highest_value(highest, stated):
    content = tiff(np.array([[0, 900]]), t281=highest)
    assert read_with_facts(io.BytesIO(content)).samples == SampleDepth(stated, 900)


def test_a_header_that_the_values_exceed_is_not_believed_for_a_file_alone():
    content = png(np.array([[0, 16383]]), before=chunk(b"sBIT", b"\x0c"))
    assert read(content).tolist() == [[0, 255]]


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_in_a_kind_that_is_not_read_is_named_with_the_fix(order):
    with pytest.raises(ValueError, match=r"TIFF file with 2 channel\(s\) of 16 bits .* save it as PNG"):
        read(tiff(np.array([[0, 4095]]), "grey_alpha", order))
    with pytest.raises(ValueError, match=r"separate planes; save it"):
        read(tiff(np.array([[0, 4095]]), "rgb", order, t284=2))


@pytest.mark.parametrize(("top", "is_read"), [(4095, False), (16383, False), (65535, True)])
def test_what_is_cut_to_its_high_byte_is_refused_where_that_is_dark(top, is_read):
    ppm = b"P6 2 1 65535\n" + np.array([[0, 0, 0, top, top, top]], ">u2").tobytes()
    opened = Image.open(io.BytesIO(png(np.array([[0, top]]), "rgb")))  # of it Pillow keeps the high byte
    for attempt in (lambda: read_image(io.BytesIO(ppm)), lambda: convert_image(opened)):
        if is_read:
            assert np.asarray(attempt()).tolist() == [[0, 255]]
        else:
            with pytest.raises(UNREADABLE, match="at most 14 bits are used"):
                attempt()


def test_a_grey_image_of_pillow_is_read_as_if_it_were_alone():
    opened = Image.open(io.BytesIO(png(np.array([[0, 2000, 4095]]))))
    assert np.asarray(convert_image(opened)).tolist() == [[0, 125, 255]]


def files(**by_name):
    return {name: SampleDepth(*facts) for name, facts in by_name.items()}


@given(st.integers(0, 65535))
def test_the_smallest_depth_holds_the_value(value):
    depth = smallest_depth(value)
    assert value < 1 << depth
    assert all(value >= 1 << smaller for smaller in DEPTHS if smaller < depth)


@pytest.mark.parametrize(
    ("setting", "facts", "depth", "is_guess"),
    [
        ("auto", {}, None, False),
        (12, {}, None, False),
        ("auto", {"a": (None, 900), "b": (None, 4000)}, 12, True),
        ("auto", {"a": (None, 255)}, 8, True),
        ("auto", {"a": (None, 16384)}, 16, False),
        ("auto", {"a": (11, 2047), "b": (None, 1900)}, 11, False),
        (10, {"a": (12, 900)}, 10, False),
        (12, {"a": (None, 65535)}, 12, False),
    ],
)
def test_a_folder_has_one_depth(setting, facts, depth, is_guess):
    found = choose_depth(setting, files(**facts), "--image_depth ")
    assert (found.depth, found.is_guess) == (depth, is_guess)
    assert bool(found.summary) == bool(facts)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"a": (12, 4000), "b": (10, 900)}, "10 bits in b, 12 bits in a.*--image_depth 12"),
        ({"a": (12, 4000), "b": (None, 5000)}, "a: its header states 12 bits.*5000 in b; --image_depth 14 reads"),
    ],
)
def test_headers_that_contradict_are_an_error_that_the_setting_settles(facts, message):
    with pytest.raises(DataError, match=message):
        choose_depth("auto", files(**facts), "--image_depth ")
    assert choose_depth(12, files(**facts), "--image_depth ").depth == 12


def test_what_the_depth_does_not_fit_is_a_warning():
    some = files(a=(None, 4000), b=(None, 65535), c=(None, 3))
    (dark,) = choose_depth("auto", some, "--image_depth ").warnings
    assert dark.startswith(
        "2 of 3 images of 16-bit samples become nearly black at 16 bits: a, c; --image_depth 12 fits"
    )
    (cut, black) = choose_depth(12, some, "--image_depth ").warnings
    assert cut.startswith("1 of 3 images of 16-bit samples have values above 4095, which become white: b; ")
    assert cut.endswith("--image_depth 16 holds them all")
    assert ": c; " in black
    assert not choose_depth("auto", files(a=(None, 4095), b=(None, 300)), "").warnings


@pytest.mark.parametrize(
    ("highest", "usual", "depth"),
    [
        (900, None, 10),
        (900, 12, 12),  # a dark image of the scanner that the network was trained on
        (4000, 16, 12),  # of another scanner: as 16 bits it would be nearly black
        (4096, 12, 14),  # does not fit
        (65535, 12, 16),
    ],
)
def test_the_depth_of_the_training_counts_where_the_values_fit(highest, usual, depth):
    found = choose_depth("auto", {"a.png": SampleDepth(None, highest)}, "--image_depth ", usual)
    assert found.depth == SampleDepth(None, highest).alone(usual) == depth
    assert found.is_guess == (depth not in (usual, 16))
    image = Image.fromarray(np.array([[0, highest]], dtype=np.uint16))
    assert convert_image(image, ReadingRules(usual=usual)).getpixel((1, 0)) == round(255 * highest / (2**depth - 1))
