"""Files that never end, or that unpack to more than they say."""

import gzip
import io
import json
import os
import socket
import struct
import zipfile
from pathlib import Path

import pytest

from datasets.annotations.records import read_records
from util.base import reading
from util.base.errors import DataError
from util.base.reading import read_member, read_regular, require_regular
from util.metrics.files import DetectionsError, load_detections

KINDS = {
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.fixture(params=KINDS)
def odd(request, tmp_path, monkeypatch):
    """(path, what it is) of what is no regular file."""
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    KINDS[request.param](Path("odd.json"))
    return Path("odd.json"), request.param


def test_what_is_no_regular_file_is_named_and_not_opened(odd):
    path, kind = odd
    for read in (require_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match=f"not a regular file but {kind}"):
            read(path)


def test_an_annotation_file_that_is_no_regular_file_is_named(odd):
    path, kind = odd
    with pytest.raises(DataError, match=f"odd.json: cannot be read .* not a regular file but {kind}"):
        read_records(path, ("images",))


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes; more than 4 are not read"):
        read_regular(path, 4)


def test_a_packed_annotation_file_may_be_in_several_parts(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'{"images": ') + gzip.compress(b"[]}"))
    assert read_records(path, ("images",))["images"].rows == []


@pytest.mark.parametrize("limit", ["LARGEST_DOCUMENT", "SMALL"])
def test_a_packed_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, limit):
    content = gzip.compress(json.dumps([0] * 3000).encode())
    for path in (tmp_path / "x.json.gz", tmp_path / "detections.json.gz"):
        path.write_bytes(content)
    monkeypatch.setattr(reading, limit, 8999)
    monkeypatch.setattr(reading, "LARGEST_EXPANSION", 0 if limit == "SMALL" else 100)
    with pytest.raises(DataError, match="unpacks to more than 8999 bytes"):
        read_records(tmp_path / "x.json.gz", ("images",))
    with pytest.raises(DetectionsError, match="unpacks to more than 8999 bytes"):
        load_detections(tmp_path / "detections.json.gz", [1])
    monkeypatch.setattr(reading, limit, 9000)
    with pytest.raises(DataError, match="holds a list"):
        read_records(tmp_path / "x.json.gz", ("images",))


def lying_archive(method, stated, size=3_000_000):
    """An archive of one file of zeros, whose directory states another size."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("x.png", bytes(size))
    changed = bytearray(content.getvalue())
    place = changed.find(b"PK\x01\x02")
    changed[place + 24 : place + 28] = struct.pack("<I", stated)
    return zipfile.ZipFile(io.BytesIO(changed))


@pytest.mark.parametrize("stated", [100, 2_999_999, 3_000_001])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_member_of_another_size_than_stated_is_refused(method, stated):
    with pytest.raises(zipfile.BadZipFile):
        read_member(lying_archive(method, stated), "x.png")
    assert read_member(lying_archive(method, 3_000_000), "x.png") == bytes(3_000_000)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_whose_unpacking_cannot_be_limited_is_refused(method):
    with pytest.raises(zipfile.BadZipFile, match="not by deflate; pack it again"):
        read_member(lying_archive(method, 3_000_000), "x.png")


def test_a_damaged_member_is_an_error_of_its_archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", os.urandom(3000))
    for place in range(35, 3000, 97):
        changed = bytearray(content.getvalue())
        changed[place] ^= 255
        with pytest.raises(zipfile.BadZipFile):
            read_member(zipfile.ZipFile(io.BytesIO(changed)), "x.png")
