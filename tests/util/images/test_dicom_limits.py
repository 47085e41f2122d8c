"""Small DICOM files that would take gigabytes, or minutes."""

import io
import struct
import zlib

import numpy as np
import pytest

from util.base.errors import MissingPackage
from util.images import common, dicom_limits, read_image, read_size

pydicom = pytest.importorskip("pydicom")

from pydicom.pixels import get_decoder  # noqa: E402

from tests.helpers.files.dicom import (  # noqa: E402
    DEFLATED,
    JPEG2000,
    LOSSLESS_JPEG,
    RLE,
    SYNTAXES,
    grey,
    reference,
    spoil,
    values,
    write,
)


def refused(content, message):
    for read in (read_image, read_size):
        with pytest.raises(ValueError, match=message):
            read(io.BytesIO(content))


def deflated(data, syntax=DEFLATED):
    """A DICOM file of a deflated data set."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    engine = zlib.compressobj(wbits=-15)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    return bytes(128) + b"DICM" + meta + engine.compress(data) + engine.flush()


def element(group, number, kind, data):
    return struct.pack("<HH2sHI", group, number, kind, 0, len(data)) + data


def test_a_deflated_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", values(16, shape=(200, 100)), bits=16, syntax=DEFLATED)
    assert read_image(path).size == (100, 200)
    monkeypatch.setattr(dicom_limits, "MAX_DATA_BYTES", 40_000)
    refused(path.read_bytes(), "bytes; more than 40000|unpacks to more than 40000 bytes")
    refused(deflated(bytes(10**6)), "unpacks to more than 40000 bytes")


def test_a_deflated_file_that_is_cut_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", values(16), bits=16, syntax=DEFLATED)
    refused(path.read_bytes()[:-20], "ends too early")


def test_a_header_of_very_many_items_or_numbers_is_refused(monkeypatch):
    monkeypatch.setattr(dicom_limits, "MAX_READS", 1000)
    monkeypatch.setattr("util.images.dicom.MAX_ELEMENT_BYTES", 10_000)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    sequence = struct.pack("<HH2sHI", 0x28, 0x3010, b"SQ", 0, 0xFFFFFFFF) + item * 2000
    refused(deflated(sequence), "more than 1000 elements")
    for number, kind, data in ((0x3010, b"SQ", item * 1500), (0x1050, b"UN", b"1\\" * 6000)):
        refused(deflated(element(0x28, number, kind, data)), "an element of its header has 12000 bytes")


def test_rows_and_columns_far_beyond_the_data_are_refused(tmp_path):
    def claim(data):
        data.Rows, data.Columns = 10_000, 10_000

    for syntax in SYNTAXES:
        path = spoil(write(tmp_path / "a.dcm", values(8, shape=(40, 48)), syntax=syntax), claim)
        with pytest.raises((ValueError, MissingPackage)):
            read_image(path)
        path = spoil(path, lambda data: setattr(data, "Rows", 10_001))
        refused(path.read_bytes(), "claims 10000 x 10001 pixels; more than 100000000 are not read")


def test_colour_may_have_fewer_pixels(tmp_path):
    path = write(tmp_path / "a.dcm", np.zeros((4, 4, 3), np.uint8), kind="RGB")
    path = spoil(path, lambda data: (setattr(data, "Rows", 5000), setattr(data, "Columns", 5001)))
    refused(path.read_bytes(), "claims 5001 x 5000 pixels; more than 20000000")


@pytest.mark.parametrize("syntax", [LOSSLESS_JPEG, JPEG2000])
def test_a_compressed_image_larger_than_its_header_says_is_not_decoded(tmp_path, syntax):
    if not get_decoder(syntax).is_available:
        pytest.skip(f"nothing here decodes {syntax}")
    stored = values(8, shape=(40, 48))
    path = spoil(write(tmp_path / "a.dcm", stored, syntax=syntax), lambda data: setattr(data, "Rows", 8))
    with pytest.raises(ValueError, match="states an image of 48 x 8 pixels, but holds one of 48 x 40"):
        read_image(path)
    content = path.read_bytes()
    for mark in (b"\xff\xd8", b"\xff\x4f\xff\x51"):
        content = content.replace(mark, bytes(len(mark)))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds an image of unknown size"):
        read_image(path)


def test_rle_that_unpacks_to_more_than_its_image_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", values(8), syntax=RLE)
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5000])
    data.save_as(path)
    with pytest.raises(ValueError, match="unpacks to more than 117 bytes"):
        read_image(path)


@pytest.mark.parametrize("signed", [False, True])
def test_grey_levels_are_the_same_however_many_pixels_are_worked_out_at_once(tmp_path, monkeypatch, signed):
    stored = values(12, signed=signed)
    path = write(tmp_path / "a.dcm", stored, bits=12, signed=signed, PixelPaddingValue=5)
    whole = grey(path)
    monkeypatch.setattr(common, "PIXELS_AT_ONCE", 2 * 13)
    assert np.array_equal(grey(path), whole)
    assert np.array_equal(whole, reference(stored, bits=12, signed=signed, padding=(5, 5)))
