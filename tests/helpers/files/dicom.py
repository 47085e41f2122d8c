"""DICOM files for tests, and what the standard says they are to be shown as, worked out pixel by pixel."""

import math

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRBigEndian, JPEGLosslessSV1, generate_uid

from tests.helpers.files import jpeg_lossless
from util.images import read_image

PERSON = {
    "PatientName": "Nightingale^Florence",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "18200512",
    "InstitutionName": "Scutari Barracks",
    "PatientComments": "not for publication",
}
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", str(ExplicitVRBigEndian)
DEFLATED, LOSSLESS_JPEG = "1.2.840.10008.1.2.1.99", str(JPEGLosslessSV1)
RLE, JPEG2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
SYNTAXES = [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, RLE, LOSSLESS_JPEG, JPEG2000]


def lut(entries, first, bits=16):
    """A table as it stands in a sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", list(entries))
    return [item]


def values(bits, signed=False, shape=(9, 13), seed=0):
    low = -(2 ** (bits - 1)) if signed else 0
    stored = np.random.default_rng(seed).integers(low, low + 2**bits, shape)
    stored[0, 0], stored[-1, -1] = low, low + 2**bits - 1
    return stored


def grey(path):
    pixels = np.asarray(read_image(path).convert("RGB"))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def spoil(path, change):
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    return path


def write(path, stored, *, syntax=EXPLICIT, kind="MONOCHROME2", bits=8, signed=False, **elements):
    """Write stored values [h, w], or 8-bit colour [h, w, 3], with more elements of the header."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = EXPLICIT if syntax in (RLE, JPEG2000) else syntax
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = kind
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    data.PixelRepresentation = int(signed)
    for name, value in {**PERSON, **elements}.items():
        setattr(data, name, value)
    order = ">" if syntax == BIG_ENDIAN else "<"
    values = stored.astype(f"{order}{'i' if signed else 'u'}{data.BitsAllocated // 8}").tobytes()
    if syntax == LOSSLESS_JPEG:
        values = encapsulate([jpeg_lossless.encode(stored, bits)])
    data.add_new(
        "PixelData", "OB" if bits <= 8 or syntax == LOSSLESS_JPEG else "OW", values + b"\0" * (len(values) % 2)
    )
    if syntax in (RLE, JPEG2000):
        data.compress(syntax)
    data.save_as(path, enforce_file_format=True)
    return path


def reference(stored, *, kind="MONOCHROME2", bits=8, signed=False, modality=None, voi=None, padding=None, **elements):
    """[h, w] grey levels by the formulas of PS3.3 C.11.1 and C.11.2, an output from 0 to 255, one value at a time.

    `modality` and `voi` are tables as (entries, first, bits); `padding` is (low, high).
    """

    def is_padding(value):
        return padding is not None and padding[0] <= value <= padding[1]

    def rescale(value):
        if modality:
            return _look_up(modality, value)
        return value * elements.get("RescaleSlope", 1) + elements.get("RescaleIntercept", 0)

    values = [rescale(v) for v in stored.ravel().tolist() if not is_padding(v)]
    low, high = min(values), max(values)
    if bits <= 8:
        least = -(2 ** (bits - 1)) if signed else 0
        low, high = sorted((rescale(least), rescale(least + 2**bits - 1)))

    def level(value):
        if is_padding(value):
            return 0
        value = rescale(value)
        if voi:
            shown = _look_up(voi, round(value)) / (2 ** voi[2] - 1) * 255
        elif "WindowCenter" in elements:
            shown = _window(value, **elements)
        else:
            shown = (value - low) / (high - low) * 255
        return round(255 - shown if kind == "MONOCHROME1" else shown)

    return np.array([level(v) for v in stored.ravel().tolist()], dtype=np.uint8).reshape(stored.shape)


def _look_up(table, value):
    entries, first, _ = table
    return entries[0] if value < first else entries[-1] if value >= first + len(entries) else entries[value - first]


def _window(value, *, WindowCenter, WindowWidth, VOILUTFunction="LINEAR", **_):  # noqa: N803 names of elements
    centre, width = (v[0] if isinstance(v, list) else v for v in (WindowCenter, WindowWidth))
    if VOILUTFunction == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (value - centre) / width))
    if VOILUTFunction == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if value <= centre - width / 2:
        return 0
    return 255 if value > centre + width / 2 else ((value - centre) / width + 0.5) * 255
