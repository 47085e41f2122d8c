import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.annotations.split import load_split
from datasets.checks.image_files import read_image_files, read_image_headers
from datasets.checks.split import find_in_images, listed_files
from datasets.dataset import load_image
from util.base.errors import DataError, MissingPackage
from util.images import UNREADABLE, ImageFacts, read_facts, read_image, read_size

pydicom = pytest.importorskip("pydicom")

from pydicom.pixels import apply_voi_lut, get_decoder  # noqa: E402

from tests.helpers.files.dicom import (  # noqa: E402
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    LOSSLESS_JPEG,
    PERSON,
    SYNTAXES,
    grey,
    lut,
    reference,
    spoil,
    values,
    write,
)

WINDOW = {"WindowCenter": 1500.0, "WindowWidth": 1200.0}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_every_depth_and_encoding_gives_the_grey_levels_of_the_standard(tmp_path, syntax, bits, kind):
    if not get_decoder(syntax).is_available:
        pytest.skip(f"nothing here decodes {syntax}")
    stored = values(bits, shape=(40, 48))
    for elements in ({}, {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2 ** (bits - 1), "RescaleSlope": 1.5}):
        path = write(tmp_path / "a.dcm", stored, syntax=syntax, kind=kind, bits=bits, **elements)
        assert np.array_equal(grey(path), reference(stored, kind=kind, bits=bits, **elements))


CASES = {
    "slope and intercept": {"RescaleSlope": -0.5, "RescaleIntercept": 2048},
    "a window after slope and intercept": {"RescaleSlope": 2, "RescaleIntercept": -1024, **WINDOW},
    "several windows, the first counts": {"WindowCenter": [1500.0, 10], "WindowWidth": [1200.0, 20]},
    "an exact window": {**WINDOW, "VOILUTFunction": "LINEAR_EXACT"},
    "a sigmoid": {**WINDOW, "VOILUTFunction": "SIGMOID"},
    "a threshold": {"WindowCenter": 1500.5, "WindowWidth": 1},
}


@pytest.mark.parametrize("elements", CASES.values(), ids=CASES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_slope_and_window_follow_the_formulas(tmp_path, elements, signed, kind):
    stored = values(12, signed)
    path = write(tmp_path / "a.dcm", stored, kind=kind, bits=12, signed=signed, **elements)
    assert np.array_equal(grey(path), reference(stored, kind=kind, bits=12, signed=signed, **elements))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize(("signed", "first"), [(False, 0), (False, 700), (True, -900)])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tables_are_looked_up_and_a_table_comes_before_a_window(tmp_path, syntax, signed, first, bits):
    stored = values(12, signed)
    entries = np.sort(np.random.default_rng(1).integers(0, 2**bits, 1500)).tolist()
    voi = lut(entries, first, bits)
    path = write(
        tmp_path / "a.dcm",
        stored,
        syntax=syntax,
        kind="MONOCHROME1",
        bits=12,
        signed=signed,
        VOILUTSequence=voi,
        **WINDOW,
    )
    expected = reference(stored, kind="MONOCHROME1", bits=12, signed=signed, voi=(entries, first, bits))
    assert np.array_equal(grey(path), expected)


def test_a_modality_table_comes_before_the_window(tmp_path):
    stored, entries = values(12), np.random.default_rng(1).integers(0, 3000, 4096).tolist()
    path = write(tmp_path / "a.dcm", stored, bits=12, ModalityLUTSequence=lut(entries, 0), **WINDOW)
    assert np.array_equal(grey(path), reference(stored, bits=12, modality=(entries, 0, 16), **WINDOW))


@pytest.mark.parametrize("as_bytes", [1, 2])
def test_a_table_may_be_kept_as_bytes(tmp_path, as_bytes):
    stored, entries = values(8), np.arange(256)[::-1]
    item = lut([0] * 256, 0, 8)
    item[0].add_new("LUTData", "OW", entries.astype(f"<u{as_bytes}").tobytes())
    assert np.array_equal(grey(write(tmp_path / "a.dcm", stored, VOILUTSequence=item)), 255 - stored)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(("signed", "low", "high"), [(False, 4095, None), (False, 0, 300), (True, -2048, -2000)])
def test_padding_is_black_and_does_not_count(tmp_path, kind, syntax, signed, low, high):
    stored = values(12, signed)
    stored[2:5, :4] = low
    limit = {} if high is None else {"PixelPaddingRangeLimit": high}
    path = write(
        tmp_path / "a.dcm", stored, syntax=syntax, kind=kind, bits=12, signed=signed, PixelPaddingValue=low, **limit
    )
    expected = reference(stored, kind=kind, bits=12, signed=signed, padding=(low, low if high is None else high))
    assert np.array_equal(grey(path), expected)
    assert (grey(path)[2:5, :4] == 0).all()


def test_an_8_bit_image_without_a_window_keeps_its_values(tmp_path):
    stored = values(8).clip(60, 180)
    assert np.array_equal(grey(write(tmp_path / "a.dcm", stored)), stored)


def test_deeper_bits_without_a_window_are_stretched_over_what_is_there(tmp_path):
    stored = np.array([[1000, 1255], [1100, 1030]])  # of 65536
    assert grey(write(tmp_path / "a.dcm", stored, bits=16)).tolist() == [[0, 255], [100, 30]]


def test_one_value_alone_is_black(tmp_path):
    assert not grey(write(tmp_path / "a.dcm", np.full((3, 4), 900), bits=12)).any()


def test_bits_that_are_not_stored_are_ignored(tmp_path):
    """An overlay may stand in them."""
    stored = values(12)
    path = write(tmp_path / "a.dcm", stored | 0x5000, bits=12, **WINDOW)
    assert np.array_equal(grey(path), reference(stored, bits=12, **WINDOW))
    shifted = write(tmp_path / "b.dcm", stored << 4, bits=12, HighBit=15, **WINDOW)
    assert np.array_equal(grey(shifted), grey(path))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.sampled_from([10, 12, 16]),
    signed=st.booleans(),
    centre=st.integers(-3000, 30000),
    width=st.integers(2, 40000),
    slope=st.sampled_from([0.25, 1.0, 3.0]),
    intercept=st.integers(-1024, 1024),
    seed=st.integers(0, 99),
)
def test_any_window_equals_that_of_pydicom(tmp_path, bits, signed, centre, width, slope, intercept, seed):
    """A second opinion: pydicom's window ends at other numbers, which are scaled here."""
    stored = values(bits, signed, (5, 6), seed)
    elements = {"WindowCenter": centre, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    path = write(tmp_path / "a.dcm", stored, bits=bits, signed=signed, **elements)
    theirs = apply_voi_lut(stored * slope + intercept, pydicom.dcmread(path))
    low = (-(2 ** (bits - 1)) if signed else 0) * slope + intercept
    high = ((2 ** (bits - 1) if signed else 2**bits) - 1) * slope + intercept
    assert np.abs((theirs - low) / (high - low) * 255 - grey(path)).max() <= 0.5 + 1e-6


def test_colour_is_kept(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    assert np.array_equal(np.asarray(read_image(write(tmp_path / "a.dcm", colours, kind="RGB"))), colours)


def test_the_name_of_the_file_does_not_matter(tmp_path):
    stored = values(8)
    assert np.array_equal(grey(write(tmp_path / "a.png", stored)), stored)
    Image.fromarray(stored.astype(np.uint8)).save(tmp_path / "b.png")
    assert np.array_equal(grey((tmp_path / "b.png").rename(tmp_path / "b.dcm")), stored)


def test_the_report_gets_spacing_and_orientation_and_nothing_about_the_person(tmp_path):
    geometry = {"PatientOrientation": ["L", "F"], "ViewPosition": "PA", "ImagerPixelSpacing": [0.15, 0.16]}
    path = write(tmp_path / "a.dcm", values(12), kind="MONOCHROME1", bits=12, **geometry)
    expected = ImageFacts(9, 13, 12, "MONOCHROME1", (0.15, 0.16), "detector", ("L", "F"), "PA")
    assert read_facts(path) == expected
    assert read_size(path) == (9, 13)
    assert read_facts(write(path, values(8), PixelSpacing=[0.2, 0.2])).spacing_at == "patient"
    assert read_facts(write(path, values(8))) == ImageFacts(9, 13, 8, "MONOCHROME2")


def test_only_listed_elements_are_ever_parsed(tmp_path, monkeypatch):
    from util.images import dicom

    read, kept = pydicom.dcmread, []
    monkeypatch.setattr(dicom.pydicom, "dcmread", lambda *a, **k: kept.append(read(*a, **k)) or kept[-1])
    path = write(tmp_path / "a.dcm", values(12), bits=12, **WINDOW)
    read_image(path), read_facts(path)
    assert len(kept) == 2
    for header in kept:
        assert {element.keyword for element in header} <= {*dicom.ELEMENTS, "SpecificCharacterSet"}
        assert not any(value in str(header) for value in PERSON.values())


def set_(**values):
    return lambda data: [setattr(data, name, value) for name, value in values.items()]


REFUSED = {
    "several frames": (set_(NumberOfFrames=3), "holds 3 frames; save the one that is meant"),
    "no pixels": (lambda data: delattr(data, "PixelData"), "has no PixelData"),
    "no size": (lambda data: delattr(data, "Rows"), "has no Rows"),
    "too few pixels": (set_(PixelData=b"12"), "damaged or incomplete"),
    "a palette": (set_(PhotometricInterpretation="PALETTE COLOR"), "is neither MONOCHROME1"),
    "32 bits": (set_(BitsAllocated=32), "has 12 of 32 bits"),
    "no bits": (set_(BitsStored=0), "has 0 of 16 bits"),
    "a high bit below": (set_(HighBit=3), "is too low for 12 bits"),
    "a giant": (set_(Rows=65535, Columns=65535), "claims 65535 x 65535 pixels"),
    "a window without width": (set_(WindowCenter=0, WindowWidth=0), "an invalid window: width 0"),
    "an unknown function": (set_(**WINDOW, VOILUTFunction="CUBIC"), "an invalid window"),
    "a short table": (set_(VOILUTSequence=lut([1, 2], 0)), None),
    "an unknown syntax": (
        lambda data: setattr(data.file_meta, "TransferSyntaxUID", "1.2.3.4"),
        "in a way that pydicom does not",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shown_is_refused_with_the_reason(tmp_path, change, message):
    path = spoil(write(tmp_path / "a.dcm", values(12), bits=12), change)
    if message is None:  # a descriptor that promises more than there is
        path = spoil(path, lambda data: setattr(data.VOILUTSequence[0], "LUTDescriptor", [9, 0, 16]))
        message = "a table of 2 entries of 16 bits where 9"
    with pytest.raises(ValueError, match=message):
        read_image(path)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_read_or_refused_and_tells_nothing_of_the_person(tmp_path, seed, recwarn, capfd, caplog):
    rng = np.random.default_rng(seed)
    syntax = SYNTAXES[seed % len(SYNTAXES)]
    content = bytearray(
        write(tmp_path / "a.dcm", values(12, shape=(40, 48)), syntax=syntax, bits=12, **WINDOW).read_bytes()
    )
    if seed % 3:
        for place in rng.integers(132, len(content), 12):
            content[place] = rng.integers(256)
    else:
        del content[rng.integers(132, len(content)) :]
    (tmp_path / "a.dcm").write_bytes(content)
    told = ""
    for read in (read_image, read_facts):
        try:
            read(tmp_path / "a.dcm")
        except (*UNREADABLE, MissingPackage) as error:
            told += str(error)
    told += "".join(str(warning.message) for warning in recwarn)
    told += "".join(capfd.readouterr()) + caplog.text
    assert not any(value in told for value in [*PERSON.values(), "Florence", "4711"])


def folder_of(tmp_path, *paths):
    images = [{"id": 5 + i, "file_name": path.name, "width": 13, "height": 9} for i, path in enumerate(paths)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "active"}]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    return load_split(tmp_path, tmp_path / "split.json")


def test_a_training_image_may_be_dicom_and_a_bad_one_is_named(tmp_path):
    stored = values(8)
    path = write(tmp_path / "a.dcm", stored)
    split = folder_of(tmp_path, path)
    assert np.array_equal(np.asarray(load_image(split, 0)), stored)
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(
        DataError, match=r"a\.dcm: cannot be read as an image .*download the file again, or remove image id 5"
    ):
        load_image(split, 0)


def test_the_check_of_a_folder_names_every_bad_file(tmp_path):
    good, cut = (write(tmp_path / name, values(8)) for name in ("good.dcm", "cut.dcm"))
    cut.write_bytes(cut.read_bytes()[:200])
    report = spoil(write(tmp_path / "report.dcm", values(8)), lambda data: delattr(data, "Rows"))
    (tmp_path / "text.dcm").write_text("no image")
    split = folder_of(tmp_path, good, cut, report, tmp_path / "text.dcm")
    [finding] = find_in_images(split, read_image_headers(listed_files(split)))
    assert finding.text.startswith("3 of 4 images cannot be read: cut.dcm (")
    assert "report.dcm (holds no image, or half of one: this DICOM file has no Rows)" in finding.text
    assert "text.dcm (no image)" in finding.text
    assert "Traceback" not in finding.text


def test_without_pydicom_one_error_names_the_package_and_other_images_need_none(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", values(8))
    split = folder_of(tmp_path, path)
    monkeypatch.delitem(sys.modules, "util.images.dicom", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delattr("util.images.dicom", raising=False)
    readers = (
        lambda: read_image(path),
        lambda: read_size(path),
        lambda: load_image(split, 0),
        lambda: read_image_headers([path]),
        lambda: read_image_files([path], {}),
    )
    for read in readers:
        with pytest.raises(MissingPackage, match=r"a\.dcm: is a DICOM file; .*pip install pydicom"):
            read()
    Image.new("L", (4, 5)).save(tmp_path / "b.png")
    assert read_size(tmp_path / "b.png") == (5, 4)


def test_a_missing_decoder_names_the_packages(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", values(8), syntax=LOSSLESS_JPEG)
    monkeypatch.setattr(type(get_decoder(LOSSLESS_JPEG)), "is_available", False)
    with pytest.raises(
        MissingPackage, match=r"a\.dcm: its pixels are compressed as JPEG Lossless.*pip install pylibjpeg"
    ):
        read_image(path)
