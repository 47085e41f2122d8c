"""Read VOC annotations of TBX11K, and convert their boxes as in the authors' json files."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.annotations.records import LabelledBox
from datasets.annotations.tbx11k import CATEGORIES
from util.base.errors import DataError

FIX = "download the file again, or leave it out"
LARGEST_XML = 1_000_000  # bytes; the largest of TBX11K has 2000


@dataclass(frozen=True)
class Voc:
    """The boxes of one image: (category id, xmin, ymin, xmax, ymax) in pixels of the original film."""

    width: int
    height: int
    boxes: tuple[tuple[int, float, float, float, float], ...]

    def scaled(self, height: int, width: int) -> list[LabelledBox]:
        """(category id, [x, y, w, h]) in pixels of an image of `height` x `width`.

        As in the authors' json files: corner = xml * side / original side - 1 px, in single precision.
        """
        scale = np.array([width / self.width, height / self.height] * 2)
        scaled = []
        for category, *corners in self.boxes:
            edges = (np.array(corners) * scale).astype(np.float32) - np.float32(1)
            scaled.append((category, [*edges[:2].tolist(), *(edges[2:] - edges[:2]).tolist()]))
        return scaled


def parse_voc(content: bytes, file: Path) -> Voc:
    """Read a VOC annotation; one without an object has no boxes.

    Raises:
        DataError: it is not XML, lacks a size or a corner, or names a category that TBX11K does not have.
    """
    if len(content) > LARGEST_XML or b"<!" in content.replace(b"<!--", b""):
        raise DataError(f"{file}: is no VOC annotation (over {LARGEST_XML} bytes, or with declarations); {FIX}")
    try:
        root = ET.fromstring(content)  # without declarations there is nothing to expand
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: is not XML ({error}); {FIX}") from error
    width, height = (_number(root, f"size/{side}", file) for side in ("width", "height"))
    if min(width, height) < 1 or max(width, height) > 1_000_000:
        raise DataError(f"{file}: the size {width:g} x {height:g} cannot be; {FIX}")
    return Voc(int(width), int(height), tuple(_box(node, file) for node in root.iter("object")))


def _box(node: ET.Element, file: Path) -> tuple[int, float, float, float, float]:
    name = (node.findtext("name") or "").strip()
    ids = [k for k, v in CATEGORIES.items() if v == name]
    if not ids:
        raise DataError(f"{file}: the category '{name[:60]}' is none of {', '.join(CATEGORIES.values())}; {FIX}")
    xmin, ymin, xmax, ymax = (_number(node, f"bndbox/{corner}", file) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if xmin >= xmax or ymin >= ymax:
        raise DataError(f"{file}: the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} has no width or no height; {FIX}")
    return ids[0], xmin, ymin, xmax, ymax


def _number(node: ET.Element, path: str, file: Path) -> float:
    text = node.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}: {path} must be a number, got {str(text)[:60]!r}; {FIX}")
    return value
