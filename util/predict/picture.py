"""An image with its boxes, names and scores for viewing, and a thumbnail of it for a table."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from util.base.text import printable
from util.detection.labels import Rectangle, place_label

NOTICE = "Research use only. Not a medical device."
# pixels of the longer side
SMALLEST = 512
LARGEST = 1280
THUMBNAIL = 112  # pixels
NARROWEST = 256  # pixels, so that the notice is legible below a narrow image too
OUTLINE = (0, 0, 0)
# Distinct under color blindness, and bright beside a black outline: M. Okabe and K. Ito, 2008.
COLORS = ((255, 178, 36), (86, 200, 255), (255, 120, 190), (240, 228, 66), (40, 210, 160))
GREY = (200, 200, 200)


def fitted(image: Image.Image) -> Image.Image:
    """The image in a size for viewing: one that is too large or too small is resized."""
    ratio = min(max(max(image.size), SMALLEST), LARGEST) / max(image.size)
    if ratio == 1:
        return image
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def draw_picture(
    image: Image.Image,
    boxes: NDArray[np.float64],
    labels: Sequence[int],
    scores: Sequence[float],
    *,
    names: Mapping[int, str],
    size: tuple[int, int],
    caption: str,
) -> Image.Image:
    """The image with a box, a name and a score for each detection, and a strip with a caption and the notice below.

    Lines and letters are bright with a black outline, so that they stand out from a dark lung and from a bright bone.

    Args:
        image: grey or RGB, as from `fitted`.
        boxes: [n, 4] xyxy in pixels of the file.
        labels: n category ids.
        scores: n.
        names: of the categories; their order chooses the color.
        size: (h, w) pixels of the file.
        caption: the text of the strip, before the notice.
    """
    ratio = np.array([image.width / size[1], image.height / size[0]] * 2)
    unit = max(1, round(max(image.size) / 500))
    font = _font(max(14, round(max(image.size) / 42)))
    strip = _strip(max(image.width, NARROWEST), caption, unit)
    sheet = Image.new("RGB", (strip.width, image.height + strip.height), OUTLINE)
    sheet.paste(image)
    pen = ImageDraw.Draw(sheet)
    marks = [*zip((boxes * ratio).tolist(), labels, scores, strict=True)]
    for box, label, _ in reversed(marks):  # the strongest on top
        _draw_box(pen, box, _color(label, names), unit)
    taken: list[Rectangle] = []
    for box, label, score in marks:
        text = f"{printable(names.get(label, str(label)))} {score:.2f}"
        wide, high = pen.textbbox((0, 0), text, font=font, stroke_width=unit)[2:]
        taken.append(place_label(box, (wide, high + 2 * unit), image.size, taken))
        pen.text(taken[-1][:2], text, _color(label, names), font, stroke_width=unit, stroke_fill=OUTLINE)
    sheet.paste(strip, (0, image.height))
    return sheet


def draw_thumbnail(
    image: Image.Image,
    boxes: NDArray[np.float64],
    labels: Sequence[int],
    names: Mapping[int, str],
    size: tuple[int, int],
) -> str:
    """A small JPEG with the boxes [n, 4] xyxy in pixels of the file, as base64."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pen = ImageDraw.Draw(small)
    ratio = np.array([small.width / size[1], small.height / size[0]] * 2)
    for box, label in reversed([*zip((boxes * ratio).tolist(), labels, strict=True)]):
        _draw_box(pen, box, _color(label, names), 1)
    content = BytesIO()
    small.save(content, "JPEG", quality=70)
    return base64.b64encode(content.getvalue()).decode()


def _color(label: int, names: Mapping[int, str]) -> tuple[int, int, int]:
    order = sorted(names)
    return COLORS[order.index(label) % len(COLORS)] if label in names else GREY


def _draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], color: tuple[int, int, int], unit: int) -> None:
    x1, y1, x2, y2 = (round(side) for side in box)
    x2 = max(x1, x2)
    y2 = max(y1, y2)
    pen.rectangle((x1 - unit, y1 - unit, x2 + unit, y2 + unit), outline=OUTLINE, width=3 * unit + 1)
    pen.rectangle((x1, y1, x2, y2), outline=color, width=unit + 1)


def _strip(width: int, caption: str, unit: int) -> Image.Image:
    """Caption and notice below an image, in lines as wide as it is."""
    font = _font(max(12, round(width / 50)))
    lines = _wrapped(f"{printable(caption)}. {NOTICE}", font, width - 4 * unit)
    high = round(1.35 * font.size)
    strip = Image.new("RGB", (width, high * len(lines) + 2 * unit), (24, 24, 24))
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        pen.text((2 * unit, unit + number * high), line, (255, 255, 255), font)
    return strip


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it has more alphabets than Pillow's own."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
