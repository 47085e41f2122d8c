"""Read a DICOM file as 8-bit pixels, with the grey levels that its header asks for. Needs pydicom.

The order of DICOM PS3.4 N.2: stored values, modality (C.11.1: slope and intercept, or a table), values of interest
(C.11.2: a table, or a window), inversion of MONOCHROME1; then padding (C.7.5.1.1.2) becomes black. Where the standard
leaves the choice:

- Of several tables or windows the first counts, and a table before a window.
- Without either, up to 8 bits are scaled by the full range that can be stored, so that a plain 8-bit image keeps its
  values, and more bits by the range of the values of the image, without padding: 16-bit files mostly use 12 or fewer.

Of the header only ELEMENTS are parsed, none of which names or describes a person.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_windowing, get_decoder, pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from util.base.errors import MissingPackage
from util.images.common import MAX_PIXELS, ImageFacts, require_few_pixels, row_blocks, to_image
from util.images.dicom_head import MARK, PREAMBLE, has_preamble
from util.images.dicom_limits import (
    MAX_ELEMENT_BYTES,
    META_GROUP,
    CountedReads,
    RefusedDicom,
    inflated,
    require_same_size,
    require_short_runs,
)
from util.images.huge_images import take_turn

ELEMENTS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("PixelSpacing", "ImagerPixelSpacing", "PatientOrientation", "ViewPosition"),
    *("SOPClassUID", "Modality", "BodyPartExamined"),
]
# Of pixels that are not compressed, by (are VRs implicit, is the order little endian)
PLAIN_SYNTAXES = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # how its class begins
MAX_COLOUR_PIXELS = MAX_PIXELS // 5  # pydicom turns YBR into RGB with three floating point numbers per pixel
PIXELS = Tag("PixelData")
DEEPEST_IDENTITY = 8  # bits
# The decoder of pylibjpeg-rle raises a BaseException for damaged RLE, so pydicom's own is used.
PLUGINS = {RLELossless: "pydicom"}

# pydicom's warnings show values of the header; none of them shall get into a log.
warnings.filterwarnings("ignore", module="pydicom")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_image(path: Path | BytesIO) -> Image.Image:
    """Read the image of a file or its content, in mode L or RGB.

    Raises:
        MissingPackage: the pixels are compressed in a way for which no package is installed.
        RefusedDicom: the file is damaged, or its content is not one grey or 8-bit RGB image.
        OSError: it cannot be read.
    """
    with _refuse_damaged():
        header = _read(path, with_pixels=True)
        take_turn(pixels=header.Rows * header.Columns)
        syntax = _require_decoder(path, header)
        _require_honest_pixels(header, syntax)
        # pydicom's correction of unused bits assumes that they are the upper ones.
        pixels = pixel_array(header, decoding_plugin=PLUGINS.get(syntax, ""), correct_unused_bits=False)
        return to_image(np.ascontiguousarray(pixels if pixels.ndim == 3 else grey_levels(header, pixels)))


def read_facts(path: Path | BytesIO) -> ImageFacts:
    """Read the facts of the header.

    Raises:
        RefusedDicom, OSError: as `read_image`, except for errors of the pixels.
    """
    with _refuse_damaged():
        return _facts(_read(path, with_pixels=False))


@contextmanager
def _refuse_damaged() -> Iterator[None]:
    """Raise RefusedDicom for any error of pydicom, without its message, which may contain any bytes of the file."""
    try:
        yield
    except (OSError, MissingPackage, RefusedDicom):
        raise
    except Exception as error:
        raise RefusedDicom(f"the DICOM file is damaged or incomplete: {type(error).__name__}") from error


def _read(path: Path | BytesIO, *, with_pixels: bool) -> Dataset:
    with _opened(path) as file:
        header = pydicom.dcmread(file, specific_tags=ELEMENTS, stop_before_pixels=not with_pixels, force=True)
    for tag in list(header.keys()):
        value = header.get_item(tag).value
        if tag != PIXELS and isinstance(value, bytes) and len(value) > MAX_ELEMENT_BYTES:  # it would become objects
            raise RefusedDicom(f"an element of its header has {len(value)} bytes, more than {MAX_ELEMENT_BYTES}")
    _check(header, with_pixels)
    if "TransferSyntaxUID" not in header.file_meta:  # without file meta information; pydicom has recognised it
        if with_pixels and header["PixelData"].is_undefined_length:
            raise RefusedDicom("its pixels are compressed, and it does not state how; export it again as DICOM or PNG")
        header.file_meta.TransferSyntaxUID = PLAIN_SYNTAXES[header.original_encoding]  # type: ignore[index]
    return header


@contextmanager
def _opened(path: Path | BytesIO) -> Iterator[CountedReads]:
    """The file for pydicom, inflated where it is deflated: pydicom would inflate without a limit."""
    with CountedReads(BytesIO(path.getbuffer()) if isinstance(path, BytesIO) else path.open("rb", buffering=0)) as file:
        if _go_to_data(file) == DeflatedExplicitVRLittleEndian:
            with CountedReads(inflated(file, ExplicitVRLittleEndian)) as content:
                yield content
        else:
            file.seek(0)
            yield file


def _go_to_data(file: CountedReads) -> str | None:
    """The transfer syntax, read as `pydicom.filereader.read_partial` reads it; the data set begins there."""
    start = PREAMBLE + len(MARK) if has_preamble(file.read(PREAMBLE + len(MARK))) else 0
    for is_implicit in (False, True):
        file.seek(start)
        meta = read_dataset(file, is_implicit, True, stop_when=lambda tag, _vr, _length: tag >> 16 != META_GROUP)
        if _is_understood(meta):
            return meta.get("TransferSyntaxUID")
    return None


def _is_understood(meta: Dataset) -> bool:
    """Whether pydicom knows the VR of the first element; else it reads once more, without VRs."""
    try:
        return not len(meta) or meta[next(meta.elements()).tag] is not None
    except NotImplementedError:
        return False


def _check(header: Dataset, with_pixels: bool) -> None:
    missing = [name for name in (*NEEDED, *(["PixelData"] if with_pixels else [])) if header.get(name) in (None, "")]
    if missing:
        raise RefusedDicom(f"holds no image, or half of one: this DICOM file has no {', '.join(missing)}")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise RefusedDicom(f"holds {frames} frames; save the one that is meant as a file of its own")
    kind, depth = header.PhotometricInterpretation, header.BitsAllocated
    is_grey = kind in ("MONOCHROME1", "MONOCHROME2") and header.get("SamplesPerPixel", 1) == 1
    is_colour = (kind == "RGB" or kind.startswith("YBR_")) and header.get("SamplesPerPixel") == 3
    if not (is_grey or is_colour):
        raise RefusedDicom("is neither MONOCHROME1, MONOCHROME2, RGB nor YBR; export it as PNG")
    try:
        require_few_pixels(header.Columns, header.Rows, most=MAX_PIXELS if is_grey else MAX_COLOUR_PIXELS)
    except ValueError as error:
        raise RefusedDicom(str(error)) from error
    if depth not in ((8, 16) if is_grey else (8,)) or not 1 <= header.BitsStored <= depth:
        raise RefusedDicom(f"has {header.BitsStored} of {depth} bits per sample; grey has up to 16, colour has 8")


def _require_decoder(path: Path | BytesIO, header: Dataset) -> UID:
    """The transfer syntax, for which a decoder is installed."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise RefusedDicom("its pixels are stored in a way that pydicom does not read; export it as PNG") from error
    if not is_available:
        raise MissingPackage(
            f"{path}: its pixels are compressed as {syntax.name}; to read them packages are needed: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )
    return syntax


def _require_honest_pixels(header: Dataset, syntax: UID) -> None:
    """Compressed pixels state their size once more, and a decoder believes that one."""
    if not syntax.is_encapsulated:
        return
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        require_short_runs(frame, header.Rows * header.Columns)
    else:
        require_same_size(frame, header.Rows, header.Columns)


def grey_levels(header: Dataset, pixels: NDArray) -> NDArray[np.uint8]:
    """Grey levels [h, w] for the values [h, w] that pydicom decodes.

    Raises:
        RefusedDicom: the header has an invalid table or window.
    """
    blocks = list(row_blocks(*pixels.shape))
    ends = [(values.min(), values.max()) for values in (_stored(header, pixels[rows]) for rows in blocks)]
    least = min(low for low, _ in ends)
    most = max(high for _, high in ends)
    # A grey level depends on the stored value alone, so it is computed once per value instead of per pixel.
    is_used = np.zeros(most - least + 1, dtype=bool)
    for rows in blocks:
        is_used[_stored(header, pixels[rows]) - least] = True
    levels = _levels_of(header, least + np.arange(len(is_used)), is_used)
    grey = np.empty(pixels.shape, dtype=np.uint8)
    for rows in blocks:
        grey[rows] = levels[_stored(header, pixels[rows]) - least]
    return grey


def _levels_of(header: Dataset, stored: NDArray[np.int64], is_used: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grey levels [n] for stored values [n], of which the image has those that `is_used` [n] marks."""
    is_padding = _padding(header, stored)
    share = np.clip(_of_interest(header, stored, is_used & ~is_padding), 0.0, 1.0)
    if header.PhotometricInterpretation == "MONOCHROME1":
        share = 1.0 - share
    return np.round(np.where(is_padding, 0.0, share) * 255).astype(np.uint8)


def _stored(header: Dataset, pixels: NDArray) -> NDArray[np.int64]:
    """The values in their BitsStored bits; other bits may hold something else, such as an overlay."""
    bits = header.BitsStored
    low_bit = header.get("HighBit", bits - 1) + 1 - bits
    if low_bit < 0:
        raise RefusedDicom(f"its high bit {header.HighBit} is too low for {bits} bits")
    values = (pixels.astype(np.int64) >> low_bit) & ((1 << bits) - 1)
    return values - ((values >> (bits - 1)) << bits) if header.PixelRepresentation else values


def _padding(header: Dataset, stored: NDArray[np.int64]) -> NDArray[np.bool_]:
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted(_signed(header, v) for v in (value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _signed(header: Dataset, value: int) -> int:
    """Restore the sign of a 16-bit number of the header that may have been read without it."""
    return value - 65536 if header.PixelRepresentation and value > 32767 else value


def _modality(header: Dataset, stored: NDArray[np.int64]) -> NDArray[np.float64]:
    if tables := header.get("ModalityLUTSequence"):
        return _look_up(header, tables[0], stored)[0]
    slope = header.get("RescaleSlope")
    intercept = header.get("RescaleIntercept")
    return stored.astype(np.float64) * (1.0 if slope is None else float(slope)) + float(intercept or 0.0)


def _of_interest(header: Dataset, stored: NDArray[np.int64], counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Brightness [n] from 0 to 1, before an inversion.

    Without a table or a window the range of the values that `counts` [n] marks is scaled to it.
    """
    values = _modality(header, stored)
    if tables := header.get("VOILUTSequence"):
        entries, bits = _look_up(header, tables[0], values)
        return entries / ((1 << bits) - 1)
    centre = _first(header.get("WindowCenter"))
    width = _first(header.get("WindowWidth"))
    if centre is not None and width is not None:
        return _through_window(header, values, width)
    if header.BitsStored <= DEEPEST_IDENTITY:
        least = -(1 << header.BitsStored >> 1) if header.PixelRepresentation else 0
        ends = _modality(header, np.array([least, least + (1 << header.BitsStored) - 1]))
    else:
        ends = values[counts]
    low = ends.min(initial=np.inf)
    high = ends.max(initial=-np.inf)
    return (values - low) / (high - low) if low < high else np.zeros_like(values)


def _through_window(header: Dataset, values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """C.11.2.1.2 and C.11.2.1.3 by pydicom, for an output from 0 to 1: the range of one unsigned bit."""
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored = 1
    window.PixelRepresentation = 0
    for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        if header.get(name) not in (None, ""):
            window[name] = header[name]
    try:
        with np.errstate(over="ignore"):
            shares = apply_windowing(values, window)
    except ValueError:
        shares = np.full_like(values, np.nan)
    if np.isnan(shares).any():
        raise RefusedDicom(f"has an invalid window: width {width:g}, or an unknown VOI LUT function")
    return shares


def _look_up(header: Dataset, table: Dataset, values: NDArray) -> tuple[NDArray[np.float64], int]:
    """The entries of a table for `values`, and how many bits they have. Values beyond its ends get the entry there.

    Not by pydicom: it counts positions modulo 256 where entries have 8 bits, and takes modality tables of 8 or 16 bits
    alone and none of single bytes.
    """
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    count = count or 65536
    first = _signed(header, first)
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if header.original_encoding[1] else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if not 1 <= bits <= 16 or len(entries) < count:
        raise RefusedDicom(f"has a table of {len(entries)} entries of {bits} bits where {count} entries were announced")
    position = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return entries[position].astype(np.float64), bits


def _first(value: float | Sequence[float] | None) -> float | None:
    """The first number of an element of the header."""
    if isinstance(value, int | float):
        return float(value)
    return float(value[0]) if value else None


def _facts(header: Dataset) -> ImageFacts:
    at_patient = header.get("PixelSpacing")
    at_detector = header.get("ImagerPixelSpacing")
    spacing = at_patient or at_detector
    orientation = header.get("PatientOrientation")
    return ImageFacts(
        height=header.Rows,
        width=header.Columns,
        bits=header.BitsStored,
        photometric=header.PhotometricInterpretation,
        spacing=(float(spacing[0]), float(spacing[1])) if spacing else None,
        spacing_at=("patient" if at_patient else "detector") if spacing else None,
        orientation=(str(orientation[0]), str(orientation[1])) if isinstance(orientation, MultiValue) else None,
        view=header.get("ViewPosition") or None,
        modality=header.get("Modality") or None,
        body_part=header.get("BodyPartExamined") or None,
        is_secondary=str(header.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURE),
    )
