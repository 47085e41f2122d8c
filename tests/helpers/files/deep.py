"""Files of 16-bit samples in the kinds that Pillow does not write, and in those it does."""

import struct
import zlib

import numpy as np

ALPHA = 40_000
# kind -> (ending, channels of the samples [h, w], PNG colour type or None)
PNG_KINDS = {"grey": 0, "grey_alpha": 4, "rgb": 2, "rgba": 6}
TIFF_KINDS = [(kind, order, packed) for kind in ("grey", "rgb", "rgba") for order in "<>" for packed in (False, True)]


def in_depth(grey, bits):
    """8-bit grey levels as the samples of a scanner of some bits."""
    return np.round(grey / 255 * ((1 << bits) - 1)).astype(np.uint16)


def channels(samples, kind):
    """[h, w, c]: the same samples in each channel, and some transparency."""
    colours = np.repeat(samples[..., None], 3 if kind.startswith("rgb") else 1, axis=-1)
    alpha = np.full((*samples.shape, 1), ALPHA, np.uint16)
    return np.concatenate([colours, alpha], axis=-1) if kind.endswith("a") else colours


def png(samples, kind="grey", *, before=b"", after=b""):
    """The bytes of a 16-bit PNG; `before` and `after` are chunks around its pixels."""
    pixels = channels(samples, kind)
    height, width = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, PNG_KINDS[kind], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.reshape(height, -1))
    parts = [chunk(b"IHDR", head), before, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind, data):
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(samples, kind="grey", order="<", is_packed=False, **tags):
    """The bytes of a 16-bit TIFF of one strip; more tags are given as t281=4095."""
    pixels = channels(samples, kind)
    height, width, count = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if is_packed else data
    data += b"\0" * (len(data) % 2)
    bits = struct.pack(f"{order}{count}H", *[16] * count)
    entries = {
        **{256: width, 257: height, 258: bits, 259: 8 if is_packed else 1, 262: 2 if count > 2 else 1},
        **{273: 8, 277: count, 278: height, 279: len(data)},
        **({338: 2} if kind.endswith("a") else {}),
        **{int(name[1:]): value for name, value in tags.items()},
    }
    directory = 8 + len(data) + len(bits)
    parts = [b"II" if order == "<" else b"MM", struct.pack(f"{order}HI", 42, directory), data, bits]
    parts.append(struct.pack(f"{order}H", len(entries)))
    for tag, value in sorted(entries.items()):
        if isinstance(value, bytes):
            number = len(value) // 2
            inside = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", 8 + len(data))
            parts.append(struct.pack(f"{order}HHI", tag, 3, number) + inside)
        else:
            parts.append(struct.pack(f"{order}HHII", tag, 4, 1, value))
    return b"".join(parts) + bytes(4)
