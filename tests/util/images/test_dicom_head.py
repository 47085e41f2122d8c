"""DICOM without preamble and file meta information, and which files are chest radiographs by their headers."""

import io
import zipfile

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.filewriter import dcmwrite

from tests.helpers.files.dicom import BIG_ENDIAN, EXPLICIT, IMPLICIT, RLE, grey, values, write
from util.images import ImageFacts, is_dicom, read_facts, read_size
from util.images.dicom_head import MARK, PREAMBLE, begins_as_dicom
from util.images.radiographs import why_no_frontal_chest
from util.predict.inputs import list_images


def without_preamble(path, *, with_meta):
    """The same file without its preamble, and without the file meta information that says how it is encoded."""
    content = path.read_bytes()[PREAMBLE + len(MARK) :]
    if not with_meta:
        data = pydicom.dcmread(path)
        implicit, little = data.original_encoding
        held = io.BytesIO()
        data.preamble, data.file_meta = None, pydicom.dataset.FileMetaDataset()
        dcmwrite(held, data, implicit_vr=implicit, little_endian=little)
        content = held.getvalue()
    bare = path.with_suffix(".bare")
    bare.write_bytes(content)
    return bare


@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_file_without_preamble_reads_as_the_whole_file(tmp_path, syntax, with_meta):
    stored = values(12)
    path = write(tmp_path / "x.dcm", stored, syntax=syntax, bits=12, Modality="CR")
    bare = without_preamble(path, with_meta=with_meta)
    assert is_dicom(bare)
    assert is_dicom(io.BytesIO(bare.read_bytes()))
    assert np.array_equal(grey(bare), grey(path))
    assert read_facts(bare) == read_facts(path)
    assert read_size(bare) == stored.shape


def test_compressed_pixels_without_their_encoding_are_refused(tmp_path):
    bare = without_preamble(write(tmp_path / "x.dcm", values(8), syntax=RLE), with_meta=False)
    with pytest.raises(ValueError, match="does not state how"):
        grey(bare)


def test_such_a_file_is_found_in_folders_and_archives(tmp_path):
    bare = without_preamble(write(tmp_path / "x.dcm", values(8)), with_meta=False)
    bare.rename(tmp_path / "IM0001")
    (tmp_path / "x.dcm").unlink()
    (tmp_path / "data.bin").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(500))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "IM0001", "IM0002")
    assert [image.name for image in list_images([str(tmp_path)]).images] == ["IM0001"]
    assert [image.name for image in list_images([str(tmp_path / "z.zip")]).images] == ["IM0002"]


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x08\0\x16\0", b"\x02\0\x10\0UI\x14\0", b"\x08\0\x05\0CS\x0a\0"])
)
def test_other_bytes_are_no_dicom(content, begin):
    assert not begins_as_dicom(begin + content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_images_of_other_formats_are_no_dicom(kind):
    held = io.BytesIO()
    Image.new("L", (200, 200), 8).save(held, kind)
    assert not begins_as_dicom(held.getvalue())


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"modality": "CR", "body_part": "CHEST", "view": "PA"}, None),
        ({"modality": "DX", "body_part": "Thorax", "view": "AP", "orientation": ("L", "F")}, None),
        ({"modality": "RG", "body_part": "LUNGS"}, None),
        ({"modality": "OT", "is_secondary": True}, None),
        ({"modality": "CR", "body_part": "CHEST_PA", "view": "LLD"}, None),
        ({"body_part": "UNKNOWN"}, None),
        ({"body_part": "Tórax"}, None),
        ({"body_part": "CXR"}, None),
        ({"body_part": "胸部"}, None),
        ({"body_part": "CHEST", "view": "AP LAT DECUB"}, None),
        ({"modality": "OT"}, "modality OT"),
        ({"modality": "CT", "body_part": "HEAD"}, "modality CT"),
        ({"modality": "NM"}, "modality NM"),
        ({"modality": "IO"}, "modality IO"),
        ({"modality": "CT", "is_secondary": True}, "modality CT"),
        ({"modality": "CR", "body_part": "LEG"}, "body part LEG"),
        ({"modality": "DX", "body_part": "TSPINE"}, "body part TSPINE"),
        ({"modality": "DX", "body_part": "CHEST", "view": "LL"}, "lateral"),
        ({"modality": "DX", "view": "RL"}, "lateral"),
        ({"modality": "DX", "view": "LATERAL"}, "lateral"),
        ({"modality": "DX", "view": "LEFT LATERAL"}, "lateral"),
        ({"modality": "DX", "body_part": "CHEST", "orientation": ("P", "F")}, "lateral"),
        ({"orientation": ("A", "F")}, "lateral"),
    ],
)
def test_what_is_no_frontal_chest_radiograph_by_its_header(facts, reason):
    found = why_no_frontal_chest(ImageFacts(9, 13, **facts))
    assert found is None if reason is None else found.startswith(reason)


def test_the_header_gives_modality_and_body_part_and_nothing_on_a_person(tmp_path):
    path = write(tmp_path / "x.dcm", values(8), Modality="CT", BodyPartExamined="HEAD", ViewPosition="LL")
    facts = read_facts(path)
    assert (facts.modality, facts.body_part, facts.view) == ("CT", "HEAD", "LL")
    data = pydicom.dcmread(path)
    assert str(data.PatientName) not in repr(facts)
    assert str(data.PatientID) not in repr(facts)


@pytest.mark.data
def test_real_chest_files_have_the_right_polarity(shared):
    import json

    folder = shared / "cases/real_dicom"
    if not folder.is_dir():
        pytest.skip("no real DICOM files beside the repository")
    path = folder / "CR-MONO1-10-chest_preamble.dcm"
    stored = np.array(json.loads((folder / "CR-MONO1-10-chest.pixel_array.json").read_text())).squeeze()
    data = pydicom.dcmread(path)
    assert np.array_equal(data.pixel_array, stored)
    centre, width = float(data.WindowCenter), float(data.WindowWidth)
    share = np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    found = grey(path)
    assert np.abs(found - (1 - share) * 255).max() <= 1  # MONOCHROME1: low values are bright
    for name in ("Issue44_CR_MONO1_8bit_jpegbaseline.dcm", "RSNA_chestPA_MONO2_8bit_jpegbaseline.dcm"):
        shown = grey(folder / name).astype(float)
        height, width = shown.shape
        lungs = shown[height // 3 : height // 2, width // 5 : width * 4 // 5].mean(axis=0)
        middle = shown[height // 3 : height * 2 // 3, width * 9 // 20 : width * 11 // 20].mean()
        assert middle > lungs.min()  # the mediastinum is brighter than air
    assert why_no_frontal_chest(read_facts(folder / "Issue56_DX_VOILUTSequence_nopixels.dcm")).startswith("body part")
    with pytest.raises(ValueError, match="65535 x 65535"):
        read_facts(folder / "oob_monochrome_65535.dcm")
