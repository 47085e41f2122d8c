import numpy as np
import pytest
from PIL import Image

from datasets.images import read_rgb, read_size

GREY = np.array([[0, 100], [200, 255]], dtype=np.uint8)


def saved(tmp_path, image, name="image.png"):
    image.save(tmp_path / name)
    return np.asarray(read_rgb(tmp_path / name))


def test_grey_is_repeated_over_the_channels(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(GREY)), np.stack([GREY] * 3, axis=-1))


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
        read_rgb(path)
