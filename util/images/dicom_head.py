"""Recognise a DICOM file by how it begins, also without preamble and file meta information. Needs no pydicom."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEAD_BYTES = 4096  # of a file, by which it is recognised
PREAMBLE = 128  # bytes before the mark
MARK = b"DICM"
SHORTEST = 8  # bytes of an element
# VRs whose length takes four bytes
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}
GROUPS = (2, 8)  # file meta information, and identification: a data set begins with one of them
# Elements that say what a file is, and how their values begin
CLASSES = {(2, 2), (2, 0x10), (8, 0x16)}
STANDARD_UID = b"1.2.840.10008."
RECOGNITION_CODE = (8, 0x10)  # of the predecessor of DICOM
RECOGNITION = b"ACR-NEMA"


def has_preamble(head: bytes) -> bool:
    """Whether the mark stands where the standard has it."""
    return head[PREAMBLE : PREAMBLE + len(MARK)] == MARK


def begins_as_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOM file.

    Without the mark they must be whole elements in rising order, one of which states a class or an encoding of the
    standard, as every image does among its first elements.
    """
    if has_preamble(head):
        return True
    return any(_states_class(head, order, explicit) for order, explicit in (("<", True), ("<", False), (">", True)))


def _states_class(head: bytes, order: str, explicit: bool) -> bool:
    for tag, value in _elements(head, order, explicit):
        if tag in CLASSES and value.startswith(STANDARD_UID):
            return True
        if tag == RECOGNITION_CODE and value.startswith(RECOGNITION):
            return True
    return False


def _elements(head: bytes, order: str, explicit: bool) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Tags and values up to the first element that is not plausible, or reaches beyond these bytes."""
    place = 0
    last = (0, 0)
    while place + SHORTEST <= len(head):
        tag = struct.unpack_from(f"{order}HH", head, place)
        start = place + SHORTEST
        if explicit:
            vr = head[place + 4 : place + 6]
            length = struct.unpack_from(f"{order}H", head, place + 6)[0]
            if vr in LONG and start + 4 <= len(head):
                length = struct.unpack_from(f"{order}I", head, start)[0]
                start += 4
            elif vr not in SHORT:
                return
        else:
            length = struct.unpack_from(f"{order}I", head, place + 4)[0]
        if tag[0] not in GROUPS or tag <= last or length % 2 or start + length > len(head):
            return
        yield tag, head[start : start + length]
        place = start + length
        last = tag
