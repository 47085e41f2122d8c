"""A checksum inside the file that it covers: proof that the file is the one that was checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLANK = "0" * 64  # stands where the checksum will
ENTRY = '"seal": "{}"'  # of the JSON object in the metadata; what no weight spells


def seal(path: Path) -> None:
    """Replace the entry `BLANK` of a file by the SHA-256 of the file."""
    content = path.read_bytes()
    path.write_bytes(content.replace(_entry(BLANK), _entry(hashlib.sha256(content).hexdigest()), 1))


def is_sealed(path: Path, checksum: str | None) -> bool:
    """Whether the file is, byte for byte, as `seal` left it; `checksum` is the value of its entry."""
    if checksum is None:
        return False
    content = path.read_bytes().replace(_entry(checksum), _entry(BLANK), 1)
    return hashlib.sha256(content).hexdigest() == checksum


def _entry(checksum: str) -> bytes:
    return ENTRY.format(checksum).encode()
