"""Rotate and scale an image slightly about its centre."""

from __future__ import annotations

from math import cos, radians, sin

import torch
from PIL import Image
from torch import Tensor

from datasets.augment.transforms import clip_boxes
from datasets.dataset import LabelledImage
from util.detection.batch import Target


def rotate_and_scale(image: Image.Image, target: Target, degrees: float, factor: float) -> LabelledImage:
    """Rotate counter-clockwise and enlarge about the centre; the size stays, uncovered pixels are black.

    Boxes are clipped; those without area are dropped.
    """
    c = cos(radians(degrees)) / factor
    s = sin(radians(degrees)) / factor
    x = image.width / 2
    y = image.height / 2
    back = (c, -s, x - c * x + s * y, s, c, y - s * x - c * y)  # maps a position in the result to one in the image
    turned = image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    boxes = rotate_boxes(target["boxes"], degrees, factor, (x, y))
    return turned, clip_boxes({**target, "boxes": boxes}, image.width, image.height)


def rotate_boxes(boxes: Tensor, degrees: float, factor: float, centre: tuple[float, float]) -> Tensor:
    """Rotate boxes [n, 4] xyxy about `centre`: the result frames the rotated ellipse that filled the box.

    A frame around the rotated corners would be too large, a square one by 16 % per side at 10 degrees, because a lesion
    hardly ever fills the corners of its box. The ellipses follow Kalra et al. (arXiv 2109.13488).
    """
    c = factor * cos(radians(degrees))
    s = factor * sin(radians(degrees))
    turn = torch.tensor([[c, s], [-s, c]])  # y points down
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    about = torch.tensor(centre)
    half = (((boxes[:, 2:] - boxes[:, :2]) / 2).square() @ turn.square().T).sqrt()
    middle = (middle - about) @ turn.T + about
    return torch.cat([middle - half, middle + half], dim=1)
