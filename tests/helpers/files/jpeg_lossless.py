"""A JPEG file without loss (ITU-T T.81, process 14, first-order prediction), as DICOM keeps X-rays in. No speed."""

import struct

CODE_LENGTH = 5  # of each of the 17 categories of differences


def encode(image, precision):
    """The bytes for grey values [h, w] of `precision` bits."""
    height, width = image.shape
    frame = struct.pack(">BHHB", precision, height, width, 1) + bytes([1, 0x11, 0])
    table = bytes([0, *(17 if n == CODE_LENGTH else 0 for n in range(1, 17)), *range(17)])
    scan = bytes([1, 1, 0, 1, 0, 0])
    parts = [b"\xff\xd8", _segment(0xC3, frame), _segment(0xC4, table), _segment(0xDA, scan)]
    return b"".join([*parts, _entropy_coded(image.astype(int).tolist(), precision), b"\xff\xd9"])


def _segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _entropy_coded(rows, precision):
    bits = []
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            guess = row[x - 1] if x else rows[y - 1][0] if y else 1 << (precision - 1)
            difference = (value - guess + 32768) % 65536 - 32768
            category = abs(difference).bit_length()
            bits.append(f"{category:0{CODE_LENGTH}b}")
            if 0 < category < 16:
                low = difference if difference > 0 else difference + (1 << category) - 1
                bits.append(f"{low:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)).replace(b"\xff", b"\xff\x00")
