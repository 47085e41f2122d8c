"""Read Pascal VOC annotations: an XML file per image, a box as corners in pixels."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from util.base.errors import DataError

FIX = "download the file again, or leave it out"
LARGEST_XML = 16_000_000  # bytes; a box takes about 300


@dataclass(frozen=True)
class Voc:
    """An image as its file states it: size in pixels, 0 where it has none, and (category, xmin, ymin, xmax, ymax)."""

    file_name: str
    width: int
    height: int
    boxes: tuple[tuple[str, float, float, float, float], ...]
    num_difficult: int


def parse_voc(content: bytes, file: Path, known: Collection[str] = (), *, needs_size: bool = False) -> Voc:
    """Read a VOC annotation; one without an object has no boxes.

    Args:
        content: the file's bytes.
        file: what messages call it.
        known: the names that a category may have; any where it is empty.
        needs_size: a file without the size of its image is an error, as is a box without width or height.

    Raises:
        DataError: it is not XML, lacks a corner, or names an unknown category.
    """
    # Without declarations there is nothing to expand; in UTF-16, which has zero bytes, they would not be found.
    if len(content) > LARGEST_XML or b"\0" in content or b"<!" in content.replace(b"<!--", b""):
        raise DataError(f"{file}: is no VOC annotation (over {LARGEST_XML} bytes, or with declarations); {FIX}")
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: is not XML ({error}); {FIX}") from error
    has_size = needs_size or root.find("size") is not None
    width, height = (_number(root, f"size/{side}", file) if has_size else 0 for side in ("width", "height"))
    if min(width, height) < (1 if needs_size else 0) or max(width, height) > 1_000_000:
        raise DataError(f"{file}: the size {width:g} x {height:g} cannot be; {FIX}")
    objects = list(root.iter("object"))
    return Voc(
        file_name=(root.findtext("filename") or "").strip(),
        width=int(width),
        height=int(height),
        boxes=tuple(_box(node, file, known, takes_empty=not needs_size) for node in objects),
        num_difficult=sum((node.findtext("difficult") or "").strip() == "1" for node in objects),
    )


def _box(
    node: ET.Element, file: Path, known: Collection[str], *, takes_empty: bool
) -> tuple[str, float, float, float, float]:
    name = (node.findtext("name") or "").strip()
    if not name or (known and name not in known):
        what = f"is none of {', '.join(known)}" if known else "is empty"
        raise DataError(f"{file}: the category '{name[:60]}' {what}; {FIX}")
    xmin, ymin, xmax, ymax = (_number(node, f"bndbox/{corner}", file) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if min(xmax - xmin, ymax - ymin) < 0 or (not takes_empty and (xmin == xmax or ymin == ymax)):
        raise DataError(f"{file}: the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} has no width or no height; {FIX}")
    return name, xmin, ymin, xmax, ymax


def _number(node: ET.Element, path: str, file: Path) -> float:
    text = node.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}: {path} must be a number, got {str(text)[:60]!r}; {FIX}")
    return value
