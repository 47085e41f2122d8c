"""Values that tools write otherwise than COCO, whose meaning is certain. Each kind is counted for a note."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
LARGEST_EXACT = 2**53  # whole numbers up to there are exact as floats
Converted = tuple[Any, str]  # the value as COCO has it, and what was unusual
# (record, value of a key, None where it is absent) -> the value that it means; None where that is not certain
Conversion = Callable[[dict[str, Any], Any], Converted | None]

DECIMAL = "whole numbers have a decimal point: read as whole numbers"
TEXT = "numbers are texts: read as numbers"
TEXT_ID = "image ids are texts: each becomes a number made of its letters, and results name images by file_name"
NULL_CROWD = "'iscrowd' are null: read as 0"
NULL_AREA = "'area' are null: width x height is used"
POLYGON = "boxes are missing: read as those around the polygons in 'segmentation'"
MASK = "boxes are missing: read as those around the masks in 'segmentation'"


@dataclass
class Notes:
    """How often each kind of unusual value was read, with the first example."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count a value."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.examples.setdefault(kind, example)

    def texts(self) -> tuple[str, ...]:
        """A line per kind."""
        return tuple(f"{count} {kind}; first {self.examples[kind]}" for kind, count in self.counts.items())


def whole_number(_record: dict[str, Any], value: Any) -> Converted | None:
    """1.0 or "1" as 1."""
    number = _number(value) if isinstance(value, str) else value
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value), TEXT
    if type(number) is float and number.is_integer() and abs(number) <= LARGEST_EXACT:
        return int(number), TEXT if isinstance(value, str) else DECIMAL
    return None


def image_id(record: dict[str, Any], value: Any) -> Converted | None:
    """As `whole_number`; any other text as a number that depends on the text alone, so the same in every list."""
    if (converted := whole_number(record, value)) or not isinstance(value, str) or not value.strip():
        return converted
    digest = hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % LARGEST_EXACT, TEXT_ID


def flag(_record: dict[str, Any], value: Any) -> Converted | None:
    """null as 0."""
    return (0, NULL_CROWD) if value is None else ((int(value), TEXT) if value in ("0", "1") else None)


def area(_record: dict[str, Any], value: Any) -> Converted | None:
    """null as absent; "12.5" as 12.5."""
    if value is None:
        return None, NULL_AREA
    number = _number(value)
    return None if number is None else (number, TEXT)


def box(record: dict[str, Any], value: Any) -> Converted | None:
    """Numbers as texts, and the box around a polygon or a mask where there is no box."""
    if value is None or value == []:
        outline = record.get("segmentation")
        converted = _around_mask(outline) if isinstance(outline, dict) else _around_polygons(outline)
        return None if converted is None else (converted, MASK if isinstance(outline, dict) else POLYGON)
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [_number(part) if isinstance(part, str) else part for part in value]
    return None if None in numbers else (numbers, TEXT)


def _number(value: Any) -> float | None:
    """The finite number that a text spells."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _around_polygons(outline: Any) -> list[float] | None:
    """The box around polygons [[x, y, x, y, ...], ...], each of three points at least."""
    polygons = [outline] if isinstance(outline, list) and outline and not isinstance(outline[0], list) else outline
    if not isinstance(polygons, list) or not polygons:
        return None
    if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        return None
    if not all(type(v) in (int, float) and abs(v) <= LARGEST_EXACT for p in polygons for v in p):
        return None
    xs = [x for p in polygons for x in p[::2]]
    ys = [y for p in polygons for y in p[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _around_mask(outline: dict[str, Any]) -> list[float] | None:
    """The box around a mask in COCO's run-length encoding, {"size": [h, w], "counts": text or list}."""
    size = outline.get("size")
    counts = outline.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and 0 < v < 2**15 for v in size)):
        return None
    if not (_are_runs(counts, size[0] * size[1]) or _is_compressed(counts)):
        return None
    from pycocotools import mask

    encoded = mask.frPyObjects(outline, *size) if isinstance(counts, list) else outline
    left, top, width, height = mask.toBbox(encoded).tolist()
    is_inside = left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
    return [left, top, width, height] if is_inside and width > 0 else None


def _are_runs(counts: Any, num_pixels: int) -> bool:
    return isinstance(counts, list) and all(type(v) is int and v >= 0 for v in counts) and sum(counts) == num_pixels


def _is_compressed(counts: Any) -> bool:
    """Whether a text is of the characters of the encoding and does not end in the middle of a number."""
    is_text = isinstance(counts, str) and counts.isascii() and all(48 <= ord(c) < 112 for c in counts)
    return is_text and counts != "" and not (ord(counts[-1]) - 48) & 0x20
