"""The orientation tag of image files: JPEG, PNG and WebP have it in EXIF, TIFF as tag 274, all of them in XMP."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from util.base.text import first_few
from util.images.common import UNREADABLE

ORIENTATION = 274
AS_STORED = 1
# How an image is turned for display, by tag. The inverses of all but the quarter turns are themselves.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXCHANGES_SIDES = (5, 6, 7, 8)
RECORDED_TURNED = (
    "width and height were recorded after turning by the orientation tag, but pixels are used as stored: save the "
    "images turned and without the tag, or record sizes and boxes of the stored pixels"
)


def orientation_of(image: Image.Image) -> int:
    """The orientation tag of an opened image; 1 where it has none, or one without meaning."""
    try:
        # Not the method of the class: that of PNG files would read all pixels first.
        tag = Image.Image.getexif(image).get(ORIENTATION, AS_STORED)
    except UNREADABLE:  # damaged metadata does not damage the pixels
        return AS_STORED
    return tag if tag in TURNS else AS_STORED


def turned(image: Image.Image, tag: int) -> Image.Image:
    """Turn an image as its tag says."""
    return image.transpose(TURNS[tag]) if tag in TURNS else image


def loaded_as_stored(image: Image.Image) -> Image.Image:
    """Read the pixels of an opened image as its file stores them: of TIFF files Pillow returns them turned."""
    tag = orientation_of(image)
    image.load()
    return image if orientation_of(image) == tag else turned(image, {6: 8, 8: 6}.get(tag, tag))


def describe_turned(tags: Mapping[str, int], total: int) -> str:
    """Count the images with a tag other than 1, and name some of them.

    Args:
        tags: by file name.
        total: number of images.
    """
    examples = first_few([f"{name} ({tag})" for name, tag in tags.items()])
    return f"{len(tags)} of {total} images have an orientation tag by which viewers turn them: {examples}"


def is_recorded_turned(stored: tuple[int, int], recorded: tuple[int, int], tag: int) -> bool:
    """Whether a recorded (height, width) is not that of the pixels as stored, but of the image turned by its tag."""
    return tag in EXCHANGES_SIDES and stored != recorded and stored == recorded[::-1]
