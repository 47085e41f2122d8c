"""Small files that unpack to gigabytes: each is read or refused within a gigabyte and a half, PyTorch included."""

import gzip
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest

from tests.helpers.training import ROOT

pytest.importorskip("pydicom")

MOST = 1.5e9  # bytes
SIDE = 9990  # pixels; just below the limit
READ = """
import sys, torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from datasets.annotations.records import read_records
from util.predict.inputs import list_images
from util.predict.detect_each import FAILURES
from util.base.errors import DataError
from util.images.huge_images import huge_images_in_turn
from util.base.memory import peak_resident_bytes

def read(source):
    try:
        with huge_images_in_turn():
            return source.read().size
    except FAILURES as error:
        return str(error)

path = Path(sys.argv[1])
if path.suffix == ".gz":
    try:
        read_records(path, ("images",))
    except DataError as error:
        print(error)
else:
    with ThreadPoolExecutor(8) as pool:
        print(*pool.map(read, list_images([str(path)]).images), sep="; ")
print(peak_resident_bytes())
"""


def deflated(parts, wbits=15):
    engine = zlib.compressobj(9, wbits=wbits)
    return b"".join([*map(engine.compress, parts), engine.flush()])


def png(path, depth, kind, channels, side=SIDE):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = bytes(1 + side * channels * depth // 8)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0))
    data = chunk(b"IDAT", deflated(row for _ in range(side)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b""))


def dicom(path, syntax, pixels, side=SIDE, depth=16, kind=b"MONOCHROME2 ", samples=1):
    """The header of an image, and `pixels` as chunks of bytes; an own writer, since pydicom's takes gigabytes."""

    def short(group, number, vr, data):
        return struct.pack("<HH2sH", group, number, vr, len(data)) + data

    numbers = {2: samples, 6: 0, 0x10: side, 0x11: side, 0x100: depth, 0x101: depth, 0x102: depth - 1, 0x103: 0}
    header = {number: short(0x28, number, b"US", struct.pack("<H", value)) for number, value in numbers.items()}
    header[4] = short(0x28, 4, b"CS", kind)
    whole = b"".join(header[number] for number in sorted(header))
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    is_rle = syntax.endswith(".5")
    length = 0xFFFFFFFF if is_rle else side * side * samples * depth // 8
    whole += struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB" if is_rle else b"OW", 0, length)
    data = b"".join([whole, *pixels]) if is_rle else deflated([whole, *pixels], -15)
    path.write_bytes(bytes(128) + b"DICM" + short(2, 0x10, b"UI", uid) + data)


def rle(side=SIDE):
    run = b"\x81\0" * (-(-side * side // 128))
    start = struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13)
    frame = start + run + run
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    return [item, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)]


def archive(path, method, size, stated=None, count=1):
    with zipfile.ZipFile(path, "w", method, compresslevel=9) as file:
        for number in range(count):
            with file.open(f"{number}.png", "w", force_zip64=False) as member:
                for _ in range(size >> 24):
                    member.write(bytes(1 << 24))
    content = bytearray(path.read_bytes())
    place = 0
    while stated is not None and (place := content.find(b"PK\x01\x02", place)) >= 0:
        content[place + 24 : place + 28] = struct.pack("<I", stated)
        place += 4
    path.write_bytes(content)


def packed(path):
    path.write_bytes(gzip.compress(bytes(1 << 24), 9) * 300)


def sparse(path):
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    os.truncate(path, 10**11)


def sparse_dicom(path):
    path.write_bytes(bytes(128) + b"DICM")
    os.truncate(path, 10**11)


def folder(path):
    path.mkdir()
    for number in range(4):
        png(path / f"{number}.png", 8, 2, 3)


DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
ZEROS = [bytes(2 * SIDE)] * SIDE
# name -> (how to make it, what is printed: the size, or the reason)
BOMBS = {
    "colour.png": (lambda path: png(path, 8, 2, 3), f"({SIDE}, {SIDE})"),
    "alpha.png": (lambda path: png(path, 8, 6, 4), f"({SIDE}, {SIDE})"),
    "deep.png": (lambda path: png(path, 16, 0, 1), f"({SIDE}, {SIDE})"),
    "deepcolour.png": (lambda path: png(path, 16, 2, 3), f"({SIDE}, {SIDE})"),
    "large.png": (lambda path: png(path, 8, 2, 3, 13_300), "more than 100000000 are not read"),
    "several": (folder, f"({SIDE}, {SIDE}); ({SIDE}, {SIDE})"),
    "lying.zip": (lambda path: archive(path, zipfile.ZIP_DEFLATED, 2**30, 100), "CRC"),
    "lyingbz2.zip": (lambda path: archive(path, zipfile.ZIP_BZIP2, 2**29, 2**26), "not by deflate"),
    "honest.zip": (lambda path: archive(path, zipfile.ZIP_DEFLATED, 2**28, count=6), "cannot identify image"),
    "deflated.dcm": (lambda path: dicom(path, DEFLATED, [bytes(1 << 24)] * 40), "unpacks to more than"),
    "grey.dcm": (lambda path: dicom(path, DEFLATED, ZEROS), f"({SIDE}, {SIDE})"),
    "rle.dcm": (lambda path: dicom(path, RLE, rle()), f"({SIDE}, {SIDE})"),
    "ybr.dcm": (
        lambda path: dicom(path, DEFLATED, [bytes(4470 * 3)] * 4470, 4470, 8, b"YBR_FULL", 3),
        "(4470, 4470)",
    ),
    "annotations.json.gz": (packed, "unpacks to more than"),
    "sparse.webp": (sparse, "bytes; more than"),
    "sparse.dcm": (sparse_dicom, "bytes; more than"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_read_or_refused_in_little_memory(tmp_path, name):
    make, wanted = BOMBS[name]
    make(tmp_path / name)
    end = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert end.returncode == 0, end.stderr
    told, peak = end.stdout.rsplit("\n", 2)[:2]
    assert wanted in told
    assert int(peak) < MOST, f"{int(peak) / 1e6:.0f} MB"
