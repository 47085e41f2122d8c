"""One reader for image files of every kind: PNG, JPEG, TIFF, DICOM. Needs no torch."""

from util.images.common import UNREADABLE, ImageFacts, to_image
from util.images.huge_images import huge_images_in_turn
from util.images.reader import FORMATS, convert_image, is_dicom, read_facts, read_image, read_size

__all__ = [
    "FORMATS",
    "UNREADABLE",
    "ImageFacts",
    "convert_image",
    "huge_images_in_turn",
    "is_dicom",
    "read_facts",
    "read_image",
    "read_size",
    "to_image",
]
