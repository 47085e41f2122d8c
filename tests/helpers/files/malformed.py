"""Malformed inputs by mutation: a seed spoils one file of a data folder in a way of its own."""

import json
import struct
import zlib

import numpy as np

VALUES: tuple = (
    None,
    True,
    -1,
    0,
    1e400,
    float("nan"),
    2**70,
    "",
    "x" * 5000,
    "../../x",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    [1, 2],
    0.5,
)
FILES = {
    "json": "annotations/json/*.json",
    "xml": "annotations/xml/*.xml",
    "lists": "lists/*.txt",
    "image": "imgs/*/*",
}


def spoil(root, seed):
    """Mutate a file of the folder; what was done to which."""
    rng = np.random.default_rng(seed)
    kind = ("json", "image", "json", "image", "xml", "lists")[seed % 6]
    paths = sorted(path for path in root.glob(FILES[kind]) if path.is_file())
    path = paths[int(rng.integers(len(paths)))]
    ways = [flip, cut, insert, swap_kind, empty]
    ways += [change_value] * 8 if kind == "json" else [change_header] * 3 if kind == "image" else [replace_number] * 3
    way = ways[int(rng.integers(len(ways)))]
    path.write_bytes(way(path.read_bytes(), rng))
    return f"{way.__name__} on {path.relative_to(root)}"


def flip(content, rng):
    """Some bytes become others."""
    data = bytearray(content)
    for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
        data[place] = int(rng.integers(256))
    return bytes(data)


def cut(content, rng):
    """The end is missing."""
    return content[: int(rng.integers(len(content)))]


def insert(content, rng):
    """Noise in the middle."""
    place = int(rng.integers(len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 200))) + content[place:]


def swap_kind(_, rng):
    """Another kind of file."""
    others = (
        b"<html>404</html>",
        b"PK\x03\x04",
        b"[" * 100_000,
        b"{}",
        b"GIF89a",
        b"\xff\xd8\xff\xe0" + bytes(50),
        b"BM",
    )
    return others[int(rng.integers(len(others)))]


def empty(*_):
    """Nothing."""
    return b""


def replace_number(content, rng):
    """A line becomes another."""
    lines = content.split(b"\n")
    others = (b"", b"nan", b"-1", b"../../etc/passwd", b"1e999", b"<xmin>9999999</xmin>", b"tb/tb9999.png", b"\xff\xfe")
    lines[int(rng.integers(len(lines)))] = others[int(rng.integers(len(others)))]
    return b"\n".join(lines)


def change_value(content, rng):
    """One value of a json document becomes another, goes away, or comes twice."""
    document = json.loads(content)
    node, key = document, None
    while isinstance(node, dict | list) and node:
        parent, key = (
            node,
            (list(node)[int(rng.integers(len(node)))] if isinstance(node, dict) else int(rng.integers(len(node)))),
        )
        node = parent[key]
        if rng.random() < 0.25:
            break
    act = rng.random()
    if act < 0.2:
        del parent[key]
    elif act < 0.35 and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(document).encode("utf-8", errors="surrogatepass")


def change_header(content, rng):
    """A png that claims another size, depth or kind of pixels, with a right checksum."""
    if content[12:16] != b"IHDR":
        return flip(content[:400], rng)
    width, height, *rest = struct.unpack(">IIBBBBB", content[16:29])
    choices = (1, 0, 65_535, 2**31 - 1, 8_000, 12_000)
    width = choices[int(rng.integers(len(choices)))] if rng.random() < 0.7 else width
    height = choices[int(rng.integers(len(choices)))] if rng.random() < 0.5 else height
    rest[int(rng.integers(5))] = int(rng.integers(0, 20)) if rng.random() < 0.5 else rest[0]
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, *(r % 256 for r in rest))
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[29 + 4 :]
