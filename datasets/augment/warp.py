"""A small rotation and scaling about the centre of an image."""

from __future__ import annotations

from math import cos, radians, sin

import torch
from PIL import Image
from torch import Tensor

from datasets.augment.transforms import clip_boxes
from datasets.dataset import Loaded
from util.detection.batch import Target


def rotate_and_scale(image: Image.Image, target: Target, degrees: float, factor: float) -> Loaded:
    """The image turned counter-clockwise and enlarged about its centre; its size stays, what is uncovered is black.

    Boxes are clipped, those of which nothing is left are dropped.
    """
    c, s = cos(radians(degrees)) / factor, sin(radians(degrees)) / factor
    x, y = image.width / 2, image.height / 2
    back = (c, -s, x - c * x + s * y, s, c, y - s * x - c * y)  # from a place in the result to one in the image
    turned = image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    boxes = rotate_boxes(target["boxes"], degrees, factor, (x, y))
    return turned, clip_boxes({**target, "boxes": boxes}, image.width, image.height)


def rotate_boxes(boxes: Tensor, degrees: float, factor: float, centre: tuple[float, float]) -> Tensor:
    """Boxes [n, 4] xyxy after a turn about `centre`: each frames the turned ellipse that filled it before.

    A frame around the turned corners would grow with every turn, a square one by 16 % per side at 10 degrees, although
    a lesion hardly ever fills the corners of its box. Ellipses are the mend of Kalra et al. (arXiv 2109.13488).
    """
    c, s = factor * cos(radians(degrees)), factor * sin(radians(degrees))
    turn = torch.tensor([[c, s], [-s, c]])  # y points down
    middle, about = (boxes[:, :2] + boxes[:, 2:]) / 2, torch.tensor(centre)
    half = (((boxes[:, 2:] - boxes[:, :2]) / 2).square() @ turn.square().T).sqrt()
    middle = (middle - about) @ turn.T + about
    return torch.cat([middle - half, middle + half], dim=1)
