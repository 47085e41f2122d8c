"""A checksum inside of a file: any change is seen."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.export.seal import BLANK, is_sealed, seal


@pytest.fixture
def sealed(tmp_path):
    """A sealed file, and what its entry says."""
    path = tmp_path / "x"
    path.write_bytes(b"weights" + json.dumps({"a": 1, "seal": BLANK, "b": 2}).encode() + b"more weights")
    seal(path)
    return path, path.read_bytes().split(b'"seal": "')[1][:64].decode()


def test_a_sealed_file_is_as_it_was_left_and_keeps_its_length(sealed):
    path, checksum = sealed
    assert is_sealed(path, checksum)
    assert checksum != BLANK
    assert len(path.read_bytes()) == len(json.dumps({"a": 1, "seal": BLANK, "b": 2})) + 19


def test_a_file_that_says_nothing_is_not_sealed(sealed):
    assert not is_sealed(sealed[0], None)
    assert not is_sealed(sealed[0], BLANK)


def test_any_byte_that_changed_is_seen(sealed):
    path, checksum = sealed
    content = path.read_bytes()

    @given(where=st.integers(0, len(content) - 1), by=st.integers(1, 255))
    @settings(max_examples=50)
    def change(where, by):
        path.write_bytes(content[:where] + bytes([content[where] ^ by]) + content[where + 1 :])
        assert not is_sealed(path, checksum)

    change()
